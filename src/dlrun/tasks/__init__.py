"""What a batch means: the loss, the output layer, the metrics and the naive baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.losses import Loss

Batch = tuple[Tensor, Tensor]
Logs = dict[str, Tensor]


@dataclass(frozen=True)
class Monitor:
    """The metric that says which of two networks is better."""

    metric: str
    higher_is_better: bool

    def improves(self, value: float, best: float) -> bool:
        """Whether ``value`` beats ``best``; a NaN never does."""
        return value > best if self.higher_is_better else value < best


HIGHER_IS_BETTER = {"accuracy": True, "f1": True, "auroc": True, "r2": True, "loss": False, "mse": False, "mae": False}


@dataclass(frozen=True)
class Evaluation:
    """The network's outputs on a whole part of the data, and what they are worth.

    Attributes:
        split: ``val`` or ``test``.
        step: optimizer steps done.
        epoch: passes over the training part done.
        metrics: values by name (``loss``, ``accuracy``); logged as ``split/name``.
        baseline: the same metrics for the naive prediction.
        outputs: (N, out_features) raw outputs, on the device.
        targets: (N,) or (N, D), on the device.
    """

    split: str
    step: int
    epoch: float
    metrics: dict[str, float]
    baseline: dict[str, float]
    outputs: Tensor
    targets: Tensor


class Task(Protocol):
    """What a batch means. Never touches a parameter or an optimizer."""

    name: ClassVar[str]
    monitor: Monitor

    def out_features(self) -> int:
        """Units of the output layer."""
        ...

    def metric_names(self) -> tuple[str, ...]:
        """Names of what an evaluation reports, ``loss`` first."""
        ...

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why it is so."""
        ...

    def fit(self, targets: Tensor) -> None:
        """Learn what is needed from the training part's targets: class shares, mean and deviation."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Logs]:
        """Loss of a batch (0-d, differentiable) and what to log, as 0-d tensors."""
        ...

    def outputs_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of outputs that are already there, 0-d."""
        ...

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """Raw outputs (B, out_features) as a user reads them."""
        ...

    def metrics(self, outputs: Tensor, targets: Tensor) -> Logs:
        """Metrics over a whole part of the data, without the loss."""
        ...

    def baseline(self, targets: Tensor) -> Logs:
        """The same metrics for the naive prediction learnt from the training part."""
        ...

    def state(self) -> dict[str, Any]:
        """What ``fit`` learnt, for the checkpoint."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        ...


def check_loss(loss: Loss, task: str, facts: Facts) -> None:
    """Refuse a loss that cannot serve a task, naming those that can."""
    from dlrun.errors import ConfigError

    tasks: frozenset[str] = getattr(loss, "tasks", frozenset({task}))
    if task not in tasks:
        works = {"classification": "cross_entropy", "regression": "mse"}[task]
        name = type(loss).__name__
        raise ConfigError(
            f"{name} is for {' and '.join(sorted(tasks))}, but '{facts.name}' is {task}: use loss={works}"
        )

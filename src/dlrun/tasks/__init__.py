"""What a batch means: the loss, the output layer, the metrics and the naive baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss

Batch = tuple[Tensor, Tensor]
Logs = dict[str, Tensor]
Network = Callable[[Tensor], Tensor]
Source = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class Monitor:
    """The metric that says which of two networks is better."""

    metric: str
    higher_is_better: bool

    def improves(self, value: float, best: float) -> bool:
        """Whether ``value`` beats ``best``; a NaN never does."""
        return value > best if self.higher_is_better else value < best


HIGHER = (
    "accuracy", "f1", "auroc", "r2", "psnr", "ssim", "elbo", "modes", "quality", "overlap", "pseudo_likelihood",
    "log_likelihood", "exact_log_likelihood",
)  # fmt: skip
LOWER = (
    "loss", "mse", "mae", "smape", "perplexity", "bits_per_character", "squared_error", "reconstruction", "kl",
    "frechet", "gap", "objective", "gradient_norm", "support_vectors", "log_likelihood_spread",
)  # fmt: skip
HIGHER_IS_BETTER = dict.fromkeys(HIGHER, True) | dict.fromkeys(LOWER, False)


@dataclass
class Measured:
    """What a network is worth on a part of the data.

    Attributes:
        metrics: 0-d tensors by name; ``loss`` first, where there is one.
        baseline: the same metrics for the naive prediction.
        outputs: (N, ...) raw outputs where all of them were kept.
        targets: (N, ...) beside them.
    """

    metrics: Logs
    baseline: Logs
    outputs: Tensor | None = None
    targets: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a network was worth at a step.

    Attributes:
        split: ``val`` or ``test``.
        step: optimizer steps done.
        epoch: passes over the training part done.
        metrics: values by name (``loss``, ``accuracy``); logged as ``split/name``.
        baseline: the same metrics for the naive prediction.
        outputs: (N, out_features) raw outputs, on the device, where all of them were kept.
        targets: (N,) or (N, D), on the device, beside them.
    """

    split: str
    step: int
    epoch: float
    metrics: dict[str, float]
    baseline: dict[str, float]
    outputs: Tensor | None = None
    targets: Tensor | None = None


class Task(Protocol):
    """What a batch means. Never touches a parameter or an optimizer.

    A task that is trained by backpropagation has ``loss(model, batch) -> (0-d loss, logs)`` too (``Differentiable``).

    Attributes:
        pixels: the range it wants images in, unless the model has a wish of its own: ``standard`` (mean 0, deviation
            1), ``unit`` (0 to 1), ``symmetric`` (-1 to 1) or ``binary`` (0 or 1, drawn once).
        requires: what it asks of a model beside ``forward``.
        usual_loss: class of ``dlrun.losses`` that ``loss=auto`` means; empty where there is none.
        per_step: whether the outputs are one for each time step.
        answers: what ``dlrun predict`` writes: ``rows`` of a CSV, ``images`` or ``text``.
    """

    name: ClassVar[str]
    pixels: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    usual_loss: ClassVar[str]
    per_step: ClassVar[bool]
    answers: ClassVar[str]
    monitor: Monitor

    def out_shape(self) -> tuple[int, ...]:
        """Shape of one example's outputs."""
        ...

    def metric_names(self) -> tuple[str, ...]:
        """Names of what an evaluation of the validation part reports, ``loss`` first."""
        ...

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why it is so."""
        ...

    def example(self) -> Batch:
        """A made-up batch of two, on the CPU."""
        ...

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Learn what is needed from the training part: class shares, means, principal directions.

        ``targets`` are all of them; ``batches`` gives the ready batches in order, on the device.
        """
        ...

    def measure(self, model: Any, batches: Iterable[Batch], split: str) -> Measured:
        """What the model is worth on a part; the caller has set evaluation mode, precision and random seed.

        Loops that take seconds, but for the one over the batches, run through ``dlrun.tasks.in_pieces``.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What ``fit`` learnt, for the checkpoint."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        ...


class Differentiable(Protocol):
    """A task that gives a loss to differentiate."""

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Loss of a batch (0-d, differentiable) and what to log, as 0-d tensors."""
        ...


def collect(model: Network, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """All outputs as float32 (N, ...) and all targets (N, ...) of a part."""
    outputs, targets = [], []
    for x, y in batches:
        outputs.append(model(x).float())
        targets.append(y)
    return torch.cat(outputs), torch.cat(targets)


def made_up_inputs(facts: Facts) -> Tensor:
    """Two examples of zeros as the data would give them: float32, or int64 tokens."""
    return torch.zeros(2, *facts.input_shape, dtype=torch.int64 if facts.vocabulary else torch.float32)


LOSSES = {
    "classification": "cross_entropy",
    "language_modelling": "cross_entropy",
    "variational": "bce",
    "generation": "non_saturating",
}


def check_loss(loss: Loss, task: str, facts: Facts) -> None:
    """Refuse a loss that cannot serve a task, naming one that can."""
    tasks: frozenset[str] = getattr(loss, "tasks", frozenset({task}))
    if task not in tasks:
        raise ConfigError(
            f"{type(loss).__name__} is for {' and '.join(sorted(tasks))}, but '{facts.name}' is {task}: "
            f"use loss={LOSSES.get(task, 'mse')}"
        )

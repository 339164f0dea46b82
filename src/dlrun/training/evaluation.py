"""A network's outputs on a whole part of the data, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from dlrun.data.batches import Batches
from dlrun.tasks import Evaluation, Task
from dlrun.tasks.in_pieces import looking, pieces
from dlrun.training.signals import StopFlag

EVALUATION_SEED = 0


class EvaluationStopped(Exception):  # noqa: N818 - not an error: a signal arrived
    """A signal asked the run to end while it was evaluating."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout; sampling draws the same numbers each time, and training's streams go on untouched."""
    training = model.training
    model.eval()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(EVALUATION_SEED)
            if devices:
                torch.cuda.manual_seed(EVALUATION_SEED)
            yield
    finally:
        model.train(training)


Viewed = Callable[[Any], Any]


def as_it_is(model: nn.Module) -> nn.Module:
    """Most networks are evaluated as they are."""
    return model


def evaluate(
    model: nn.Module,
    task: Task,
    batches: Batches,
    autocast: AbstractContextManager[object],
    *,
    split: str,
    step: int,
    epoch: float,
    stop: StopFlag,
    viewed: Viewed = as_it_is,
) -> Evaluation:
    """What the network is worth on one part of the data.

    Raises:
        EvaluationStopped: a signal arrived; it is heeded between batches and between the pieces of a long measurement.
    """

    def look() -> None:
        if stop:
            raise EvaluationStopped

    with evaluation_mode(model), autocast, looking(look):
        found = task.measure(viewed(model), pieces(batches.in_order()), split)
        metrics, baseline = _read(found.metrics), _read(found.baseline)
    return Evaluation(split, step, epoch, metrics, baseline, found.outputs, found.targets)


def _read(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """0-d tensors as floats, in one transfer from the device."""
    if not values:
        return {}
    return dict(zip(values, torch.stack([v.double() for v in values.values()]).tolist(), strict=True))

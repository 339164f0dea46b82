"""A network's outputs on a whole part of the data, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from dlrun.data.batches import Batches
from dlrun.tasks import Evaluation, Task
from dlrun.training.signals import StopFlag


class EvaluationStopped(Exception):  # noqa: N818 - not an error: a signal arrived
    """A signal asked the run to end while it was evaluating."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout, and the random streams as they were afterwards."""
    training = model.training
    model.eval()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        model.train(training)


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
) -> Evaluation:
    """Run the network over one part of the data.

    Raises:
        EvaluationStopped: a signal arrived.
    """
    outputs, targets = [], []
    with evaluation_mode(model):
        for x, y in batches.in_order():
            if stop:
                raise EvaluationStopped
            with autocast:
                outputs.append(model(x).float())
            targets.append(y)
        scores, truth = torch.cat(outputs), torch.cat(targets)
        found = {"loss": task.outputs_loss(scores, truth)} | task.metrics(scores, truth)
        baseline = task.baseline(truth)
    return Evaluation(split, step, epoch, _read(found), _read(baseline), scores, truth)


def _read(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """0-d tensors as floats, in one transfer from the device."""
    if not values:
        return {}
    return dict(zip(values, torch.stack([v.double() for v in values.values()]).tolist(), strict=True))

"""How the loop takes steps: one after another, or, where an engine can, several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dlrun.tasks import Batch, Logs

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer

# The logs of the steps taken: at least one, at most as many as the trainer's ``steps_left``. The batches are those to
# come; an engine that makes its own does not ask for them.
Take = Callable[["Trainer", Iterator[Batch]], Sequence[Logs]]


def one_step(trainer: Trainer, batches: Iterator[Batch]) -> Sequence[Logs]:
    """Set the rate, step on the next batch, take the new weights into the average."""
    trainer.updater.set_factor(trainer.factor())
    logs = trainer.take_step(next(batches))
    trainer.average.update()
    return (logs,)

"""What a checkpoint holds of a ``Trainer``: everything the rest of the run depends on, and how it is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlrun.training.best import Best
from dlrun.training.randomness import random_state, restore_random_state
from dlrun.training.window import Window

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer


def state_of(trainer: Trainer) -> dict[str, Any]:
    """A trainer's whole state, as nested dicts and lists of tensors and plain values."""
    return {
        "step": trainer.step,
        "seconds": trainer.seconds,
        "model": trainer.model.state_dict(),
        "updater": trainer.updater.state_dict(),
        "algorithm": trainer.algorithm.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "average": trainer.average.state_dict(),
        "random": random_state(),
        "window": trainer.window.logs,
        "latest": trainer.latest,
        "evaluated_at": trainer.evaluated_at,
        "logged_at": trainer.logged_at,
        "evaluations_without_progress": trainer.evaluations_without_progress,
        "best": None if trainer.best is None else trainer.best.summary(),
    }


def restore(trainer: Trainer, state: dict[str, Any], best: dict[str, Any] | None) -> None:
    """The inverse of ``state_of``; ``best`` is the best checkpoint's state, where there is one."""
    trainer.model.load_state_dict(state["model"])
    trainer.updater.load_state_dict(state["updater"])
    trainer.algorithm.load_state_dict(state["algorithm"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.average.load_state_dict(state["average"])
    device = trainer.updater.parameters[0].device
    trainer.window = Window({name: value.to(device) for name, value in logs.items()} for logs in state["window"])
    trainer.step, trainer.latest = state["step"], state["latest"]
    trainer.evaluated_at, trainer.logged_at = state["evaluated_at"], state["logged_at"]
    trainer.evaluations_without_progress = state["evaluations_without_progress"]
    if state["best"] is not None and best is not None:  # without a good best checkpoint it is chosen anew
        same = best["step"] == state["best"]["step"]
        trainer.best = Best(**state["best"], model=best["model"] if same else None)
    restore_random_state(state["random"])

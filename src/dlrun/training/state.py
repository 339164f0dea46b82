"""What a checkpoint holds of a ``Trainer``: everything the rest of the run depends on, and how it is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dlrun.training.best import Best
from dlrun.training.randomness import random_state, restore_random_state
from dlrun.training.window import Window

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer

RANKS = "ranks"  # the key under which a checkpoint of several processes has what each one's algorithm carries


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
    state = trainer.peers.spread(trainer, state)
    trainer.model.load_state_dict(state["model"])
    trainer.updater.load_state_dict(state["updater"])
    trainer.algorithm.load_state_dict(algorithm_state_of(state, trainer.peers.rank, trainer.peers.size))
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.average.load_state_dict(state["average"])
    device = trainer.updater.parameters[0].device
    trainer.window = Window({name: value.to(device) for name, value in logs.items()} for logs in state["window"])
    trainer.step, trainer.latest = state["step"], state["latest"]
    trainer.evaluated_at, trainer.logged_at = state["evaluated_at"], state["logged_at"]
    trainer.evaluations_without_progress = state["evaluations_without_progress"]
    if state["best"] is not None and best is not None:  # without a good best checkpoint it is chosen anew
        same = best["step"] == state["best"]["step"]
        weights = trainer.peers.spread(trainer, {"model": best["model"]})["model"] if same else None
        trainer.best = Best(**state["best"], model=weights)
    restore_random_state(state["random"])


def algorithm_state_of(state: dict[str, Any], rank: int, size: int) -> dict[str, Any]:
    """What the algorithm of one process of ``size`` carries on, of a checkpoint that any number of them has made.

    A hidden state (L, B, H) belongs to the rows of a batch, which are cut in the order of the processes. Anything else
    is one process's own (the chains of a Boltzmann machine): where there were fewer, several go on from the same.
    """
    each: list[dict[str, Any]] = state.get(RANKS) or [state["algorithm"]]
    if len(each) == size:
        return each[rank]
    mine = dict(each[rank % len(each)])
    if mine.get("hidden"):
        parts = [torch.cat(parts, 1) for parts in zip(*(one["hidden"] for one in each), strict=True)]
        mine["hidden"] = [part.tensor_split(size, 1)[rank].contiguous() for part in parts]
    return mine

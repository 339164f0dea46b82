"""How a supervisor goes about a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from dlrun.sweeps.child import run_trials
from dlrun.sweeps.jobs import Work


@dataclass(frozen=True)
class Rules:
    """How a supervisor goes about it.

    Attributes:
        seeds: every point is run under each of them.
        metric: such as ``val/accuracy``, or ``auto``.
        pruning: whether the first seed of a point is watched by a pruner. The other seeds are then run only when the
            first is done.
        retries: how often a trial that was killed from outside goes on from its checkpoint.
        trusted: packages whose classes a configuration may name.
        grace: seconds without a beat after which another process's points are freed. None where no other process
            works on the study: then all points that nobody holds any longer are freed at the start.
        work: what a process does with its job.
    """

    seeds: tuple[int, ...]
    metric: str = "auto"
    pruning: bool = False
    retries: int = 1
    trusted: tuple[str, ...] = ()
    grace: float | None = None
    work: Work = run_trials

"""How long a sweep will still take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dlrun.sweeps.nouns import TERMINAL
from dlrun.sweeps.results import RUNNING, WAITING, counts

if TYPE_CHECKING:
    from dlrun.sweeps.nouns import SweepResult, TrialResult

Running = Mapping[tuple[int, int], str]  # a few words of each running trial, by point number and seed


class Clocks:
    """How long the rest will take, and how long each trial has been running."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: dict[tuple[int, int], float] = {}
        self._begun: float | None = None
        self._before = 0

    def begin(self, result: SweepResult) -> None:
        """Count from here."""
        self._begun, self._before = self._now(), len(_worked(result))

    def see(self, running: Running) -> None:
        """Remember when each running trial was first seen."""
        now = self._now()
        self._since = {key: self._since.get(key, now) for key in running}

    def age(self, key: tuple[int, int]) -> float:
        """Seconds since the trial was first seen running."""
        return self._now() - self._since.get(key, self._now())

    def left(self, result: SweepResult) -> float | None:
        """Seconds until all trials have ended; None while none has.

        At first from the mean length of a trial; as soon as each worker has ended two, from their real pace, which
        knows of the start of processes, of pruning and of packs.
        """
        worked, workers = _worked(result), max(result.settings.workers, 1)
        if not worked:
            return None
        found = counts(result)
        open_trials = found[WAITING] + found[RUNNING]
        here = len(worked) - self._before
        if self._begun is not None and here >= 2 * workers:
            return open_trials * (self._now() - self._begun) / here
        length = sum((trial.seconds or 0.0) / max(trial.packed, 1) for trial in worked) / len(worked)
        begun = sum(min(self.age(key), length) for key in self._since)
        return (open_trials * length - begun) / workers


def _worked(result: SweepResult) -> list[TrialResult]:
    """The trials that ended here after some work: those that tell how long one takes."""
    return [
        trial
        for point in result.points
        for trial in point.trials
        if trial.status in TERMINAL and not trial.reused and trial.seconds is not None
    ]

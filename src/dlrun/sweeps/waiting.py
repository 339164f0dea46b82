"""The trials that wait for a slot, and which of them train together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from dlrun.errors import DlrunError
from dlrun.sweeps.nouns import Trial
from dlrun.sweeps.parties import Planner


class Waiting:
    """A queue of trials; ``planner`` says which of them make a pack."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._queue: deque[Trial] = deque()
        self._alone: set[Path] = set()  # trials that no pack may take: begun before, or their pack broke

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, trial: Trial) -> None:
        """Put a trial at the end."""
        self._queue.append(trial)

    def add_first(self, trial: Trial) -> None:
        """Put a trial at the front."""
        self._queue.appendleft(trial)

    def part(self, trials: Iterable[Trial]) -> None:
        """Let no pack take these trials any more."""
        self._alone |= {trial.folder for trial in trials}

    def is_alone(self, trial: Trial) -> bool:
        """Whether no pack may take a trial."""
        return trial.folder in self._alone

    def drop(self, number: int) -> None:
        """Forget the trials of a point."""
        self._queue = deque(trial for trial in self._queue if trial.number != number)

    def take(self) -> tuple[Trial, ...]:
        """Take out the trial that has waited longest, with those that can train in one pack with it."""
        trials = self._together()
        for trial in trials:
            self._queue.remove(trial)
        return trials

    def _together(self) -> tuple[Trial, ...]:
        first = self._queue[0]
        others = [trial for trial in self._queue if not self.is_alone(trial)]
        if self.is_alone(first) or len(others) < 2:
            return (first,)
        try:
            return tuple(self._planner.pack(others))
        except DlrunError:  # what is wrong with it is told, and written down, when it is run
            return (first,)

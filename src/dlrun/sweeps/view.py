"""All trials of a study as they are now, of which each is read again only when it can have changed.

Optuna reads every trial that has not ended anew whenever it is asked, the waiting ones included: half a second of
computing for a thousand of them. A sweep is looked at every second, and most of its points wait.
"""

from __future__ import annotations

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from dlrun.sweeps import known, tables
from dlrun.sweeps.known import Known
from dlrun.sweeps.tables import Mark


class View:
    """What one process has read of a study."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._marks: dict[int, Mark] = {}
        self._trials: dict[int, FrozenTrial] = {}
        self._known: dict[int, Known | None] = {}

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in the order of the numbers; they are not to be changed but for those that run."""
        self._look()
        return [self._trials[i] for i in self._marks]

    def standing(self) -> tuple[list[Known], int]:
        """All points that have values, in the order of their numbers, and how many the sweep has in all."""
        self._look()
        points = [point for i in self._marks if (point := self._known[i]) is not None]
        return points, sum(not mark.noted for mark in self._marks.values())

    def _look(self) -> None:
        # The marks first: what changes between the two questions has another mark at the next look.
        marks = tables.marks(self._storage, self._study_id, known.SURPLUS)
        stale = {i for i, mark in marks.items() if mark.state == TrialState.RUNNING or self._marks.get(i) != mark}
        if stale:
            some, after = (stale, max(marks)) if len(stale) < len(marks) else (set(), -1)
            for trial in self._storage._get_trials(self._study_id, None, some, after):
                if trial._trial_id in stale:
                    self._trials[trial._trial_id] = trial
                    self._known[trial._trial_id] = known.known_of(trial)
        self._marks = marks

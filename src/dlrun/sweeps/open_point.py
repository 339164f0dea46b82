"""A point in the hands of a supervisor: which of its seeds are still to be run, which have ended, and how."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from dlrun.sweeps.nouns import DONE, FAILED, PRUNED, Ending
from dlrun.sweeps.parties import Claimed
from dlrun.sweeps.results import WORST_FIRST, is_finite


@dataclass
class OpenPoint:
    """A point that is being worked on.

    Attributes:
        claimed: as the study handed it out.
        owed: seeds that wait for their turn, in order.
        begun: seeds in the queue or in a slot.
        endings: of the seeds that have ended.
        reused: by seed, the finished run that was taken over.
    """

    claimed: Claimed
    owed: list[int]
    begun: set[int] = field(default_factory=set)
    endings: dict[int, Ending] = field(default_factory=dict)
    reused: dict[str, str] = field(default_factory=dict)

    def next_may_run(self, pruning: bool) -> bool:
        """Whether a seed is owed that may run now: with a pruner the others wait until the first is done."""
        if not self.owed:
            return False
        if not pruning or (not self.endings and not self.begun):
            return True
        first = next(iter(self.endings.values()), None)  # no other can have ended before it
        return first is not None and first.status == DONE

    def ending(self, metric: str) -> Ending:
        """The worst status of its trials, the mean value of those that are done, the first error."""
        endings = list(self.endings.values())
        status = next(word for word in WORST_FIRST if any(ending.status == word for ending in endings))
        mean = _mean(endings)
        if status == DONE and any(not is_finite(ending.value) for ending in endings):
            return Ending(FAILED, mean, f"the metric {metric} is not in every run of the point, or is not finite")
        if status == PRUNED and mean is None:
            mean = next(ending.value for ending in endings if ending.status == PRUNED)
        return Ending(status, mean, next((ending.error for ending in endings if ending.error), ""))


def _mean(endings: Sequence[Ending]) -> float | None:
    there = [e.value for e in endings if e.status == DONE and e.value is not None and is_finite(e.value)]
    return statistics.fmean(there) if there else None

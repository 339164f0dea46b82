"""A job, and what is heard of it: the words between the pool, the processes of trials and the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlrun.sweeps.nouns import Ending, Trial

if TYPE_CHECKING:
    from dlrun.sweeps.child import Link


Work = Callable[["Job", "Link"], None]


@dataclass(frozen=True, eq=False)
class Job:
    """What one process carries out.

    Attributes:
        trials: one, or the lanes of a pack.
        work: a function of a module, not of the main program; called in the new process with the job and its link.
        watched: for each trial whether its evaluations wait for an answer, as a pruner needs it; empty is none.
        metric: such as ``val/accuracy``; ``auto`` is what chooses the run's best network.
        trusted: packages whose classes a configuration may name.
    """

    trials: tuple[Trial, ...]
    work: Work
    watched: tuple[bool, ...] = ()
    metric: str = "auto"
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alive:
    """A sign of life of a lane: it has done ``step`` of ``total`` steps (None when the end is a matter of time)."""

    job: Job
    lane: int
    step: int
    total: int | None

    @property
    def trial(self) -> Trial:
        """Whose it is."""
        return self.job.trials[self.lane]


@dataclass(frozen=True)
class Evaluated:
    """A value of the metric after ``step`` steps; ``waits`` is whether the lane waits for `Pool.answer`."""

    job: Job
    lane: int
    step: int
    value: float
    waits: bool

    @property
    def trial(self) -> Trial:
        """Whose it is."""
        return self.job.trials[self.lane]


@dataclass(frozen=True)
class Ended:
    """A lane said how it ended."""

    job: Job
    lane: int
    ending: Ending

    @property
    def trial(self) -> Trial:
        """Whose it is."""
        return self.job.trials[self.lane]


@dataclass(frozen=True)
class Apart:
    """The trials of a job cannot, or had better not, train in one pack; none has begun."""

    job: Job
    reason: str


@dataclass(frozen=True)
class Gone:
    """The process is over, and all that it had started; nothing more is heard of the job.

    Attributes:
        job: which.
        reason: in a sentence, for the trials that did not say how they ended.
        exit_code: 128 + n for signal n; never 0.
        outside: whether somebody else ended it, as a system out of memory does: the trial may be tried again.
    """

    job: Job
    reason: str
    exit_code: int
    outside: bool


Event = Alive | Evaluated | Ended | Apart | Gone


def waiting_of(events: Sequence[Event]) -> list[Evaluated]:
    """Those that wait for an answer."""
    return [event for event in events if isinstance(event, Evaluated) and event.waits]

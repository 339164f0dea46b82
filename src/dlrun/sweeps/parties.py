"""Who a supervisor deals with: where points come from, who makes trials of them, and what it tells the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dlrun.sweeps.nouns import Ending, Point, Trial


class Claimed(Protocol):
    """A point that this process works on now."""

    @property
    def number(self) -> int:
        """Its place in the sweep, from 0."""
        ...

    @property
    def point(self) -> Point:
        """Its values and words."""
        ...


class Study(Protocol):
    """Where points come from, and where their results go."""

    def ask(self) -> Claimed | None:
        """The next point, claimed for this process; None when there is none to be handed out now."""
        ...

    def report_all(self, reports: Mapping[int, tuple[int, float]]) -> set[int]:
        """Tell values of points' first seeds, as (step, value) by number; which points are to be pruned."""
        ...

    def finish(self, number: int, state: str, value: float | None, **attributes: Any) -> bool:
        """Tell how a point ended: a word of ``nouns.TERMINAL``, the mean value, ``error`` and ``reused``."""
        ...

    def beat(self, numbers: Sequence[int]) -> None:
        """Say that this process still works on these points."""
        ...

    def reclaim(self, grace: float | None) -> list[int]:
        """Free the points whose process has not beaten for ``grace`` seconds; with None all that are claimed."""
        ...


class Planner(Protocol):
    """Who makes trials of points."""

    @property
    def ahead(self) -> int:
        """How many trials should wait before a job is started: 1, or as many as a pack may hold."""
        ...

    def trial(self, claimed: Claimed, seed: int) -> Trial:
        """The trial of a point under a seed; raises DlrunError when it cannot be composed."""
        ...

    def pack(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """The first trial with those of the others that train in one pack with it, or alone."""
        ...

    def apart(self, trials: Sequence[Trial], reason: str) -> None:
        """Remember that trials like these do not train together."""
        ...

    def reuse(self, trial: Trial) -> Path | None:
        """A finished run that is equal to the trial."""
        ...


@dataclass(frozen=True)
class Change:
    """Something new about a trial or a point.

    Attributes:
        kind: ``started``, ``again`` (it goes on after its process was killed), ``ended``, ``reused`` (``text`` is the
            equal run), ``postponed`` (another process has it), ``apart`` (a pack whose trials do not train together;
            ``number`` is that of the first), ``warning``, or ``point``: all of a point have ended.
        number: of the point; None where it is about the whole sweep.
        seed: of the trial; None for a point.
        text: one sentence, or empty.
        ending: of what has ended.
    """

    kind: str
    number: int | None
    seed: int | None = None
    text: str = ""
    ending: Ending | None = None


@dataclass(frozen=True)
class Halt:
    """Why the supervisor's loop ended.

    Attributes:
        signal: the number of the signal that asked it to, 0 when nothing was left to do.
        postponed: points that were left because another process works on a trial of them.
    """

    signal: int
    postponed: tuple[int, ...]

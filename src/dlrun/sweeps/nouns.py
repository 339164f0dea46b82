"""What the parts of a sweep say to each other. No torch, no Optuna: a sweep is listed and shown without them.

A *point* is one setting of what is swept; a *trial* is one run of a point, under one seed. A sweep of P points and S
seeds has P x S trials. A point is what the search proposes and ranks, by the mean over its seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# How a trial ended. Each has exactly one of them; a trial that has none yet is waiting or running.
DONE = "done"
PRUNED = "pruned"  # stopped early because others were better at the same step
DIVERGED = "diverged"
FAILED = "failed"  # an error, a wrong exit, a signal, too long or no sign of life; the run's record says which
TERMINAL = (DONE, PRUNED, DIVERGED, FAILED)


@dataclass(frozen=True)
class Axis:
    """One thing that is swept.

    Attributes:
        key: as on the command line, without + or ++: ``optimizer.lr``, or a group such as ``model``.
        prefix: what stood before the key: empty, ``+`` or ``++``.
        group: whether it picks an option of a config group.
        values: what may stand after the ``=``, as it would be written there; empty for an interval.
        low: lower end of an interval, else None.
        high: upper end of an interval, else None.
        integer: whether only whole numbers of the interval are meant.
        log: whether the interval is searched on a logarithmic scale.
    """

    key: str
    prefix: str = ""
    group: bool = False
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    integer: bool = False
    log: bool = False

    @property
    def finite(self) -> bool:
        """Whether it is a list of values."""
        return self.low is None


@dataclass(frozen=True)
class Space:
    """All that a sweep may try.

    Attributes:
        fixed: override words that every point has (where its options have the key).
        axes: what is swept, groups first.
        seeds: every point is run under each of them.
    """

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] = (0,)

    @property
    def finite(self) -> bool:
        """Whether the points can be counted."""
        return all(axis.finite for axis in self.axes)


@dataclass(frozen=True)
class Point:
    """One setting of what is swept.

    Attributes:
        values: the value of each axis by key, as written; axes whose key the point's options do not have are left out.
        overrides: all words for ``dlrun train`` except the seed.
    """

    values: dict[str, str]
    overrides: tuple[str, ...]

    @property
    def label(self) -> str:
        """The swept values in one line."""
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or "as composed"


@dataclass(frozen=True)
class Settings:
    """How a space is searched and carried out (configs/sweep.yaml; every key is explained there).

    Attributes:
        sampler: ``grid``, ``random``, ``tpe`` or ``cmaes``.
        points: how many points to try; None is every one of a finite space.
        pruner: ``none``, ``asha``, ``hyperband`` or ``median``.
        metric: such as ``val/accuracy``; ``auto`` is what chooses a run's best checkpoint.
        seed: of the sampler.
        workers: trials (or packs) at the same time.
        timeout: seconds that one trial may take, or None.
        hang: seconds without a sign of life after which a trial is given up.
        retries: how often a trial that was killed from outside goes on from its checkpoint.
        storage: URL of a database, or None for SQLite in the sweep's folder.
        launcher: ``auto``, ``local``, ``packed``, ``slurm`` or ``ray``.
        lanes: most trials in one pack; None is as many as the memory holds.
        options: further keys of the launcher, such as Slurm's partition.
    """

    sampler: str = "grid"
    points: int | None = None
    pruner: str = "none"
    metric: str = "auto"
    seed: int = 0
    workers: int = 1
    timeout: float | None = None
    hang: float = 1800.0
    retries: int = 1
    storage: str | None = None
    launcher: str = "auto"
    lanes: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One run of a sweep that is to be carried out, complete: whoever has it needs nothing else.

    Attributes:
        number: of its point.
        seed: the seed it runs under.
        folder: the run's directory, the same whoever runs it and however often it is tried.
        config: the composed configuration as YAML text, the seed included.
        command: the words of ``dlrun train`` that would run it alone.
        values: those of its point, by axis.
    """

    number: int
    seed: int
    folder: Path
    config: str
    command: tuple[str, ...]
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes:
        status: one of ``TERMINAL``.
        value: the best value of the sweep's metric, None where there is none.
        error: one sentence where it did not end well.
        exit_code: as ``dlrun train`` would have had it.
    """

    status: str
    value: float | None = None
    error: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class TrialResult:
    """What is known of one trial, from its run directory.

    ``status`` is ``waiting``, ``running`` or one of ``TERMINAL``; ``reused`` says that an equal run had finished
    before the sweep; ``metrics`` is that of the run's record.
    """

    seed: int
    status: str
    folder: Path
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    steps: int | None = None
    error: str = ""
    reused: bool = False
    packed: int = 0


@dataclass(frozen=True)
class PointResult:
    """A point and all its trials.

    ``state`` is ``waiting``, ``running`` or one of ``TERMINAL``: the worst of its trials once all have ended.
    ``mean`` is over the seeds that are done; ``error`` the standard error of that mean, None under two seeds.
    """

    number: int
    point: Point
    state: str
    trials: tuple[TrialResult, ...]
    mean: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class SweepResult:
    """A whole sweep, as it stands.

    ``points`` are in the order of their numbers. ``importances`` are shares of the variance by axis key; empty where
    too few points are done.
    """

    name: str
    folder: Path
    metric: str
    higher_is_better: bool
    space: Space
    settings: Settings
    points: tuple[PointResult, ...]
    importances: dict[str, float] = field(default_factory=dict)
    planned: int | None = None  # points in all
    seconds: float = 0.0

    def ranked(self) -> list[PointResult]:
        """The points that have a mean, the best first; those with a failed trial after those without."""
        sign = -1.0 if self.higher_is_better else 1.0
        there = [point for point in self.points if point.mean is not None]
        return sorted(there, key=lambda p: (p.state != DONE, sign * (p.mean or 0.0), p.number))

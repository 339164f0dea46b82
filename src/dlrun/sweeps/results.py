"""What came of a sweep: every trial's run directory read, means over seeds, a trial's command line.

The run directories are the truth. The study only says which points there are and how far each is; a run directory
that is damaged is one failed trial and never hides the others.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from dlrun.errors import ConfigError, DlrunError, StorageError
from dlrun.sweeps.nouns import (
    DIVERGED,
    DONE,
    FAILED,
    PRUNED,
    TERMINAL,
    Point,
    PointResult,
    Settings,
    Space,
    SweepResult,
    TrialResult,
)
from dlrun.tracking import lock
from dlrun.tracking.folders import has_record
from dlrun.tracking.history import History
from dlrun.tracking.run_directory import RunDirectory
from dlrun.tracking.sweep_directory import SweepDirectory

WAITING, RUNNING = "waiting", "running"
OUTPUT = "output.log"  # in a trial's folder: what its process printed
REUSED = "reused"  # attribute of a point: the folder of the equal finished run by seed, where there was one

WORST_FIRST = (FAILED, DIVERGED, PRUNED, DONE)
GONE = "its run directory is gone, or was gone on with; the sweep's study kept how it ended"
_OURS = {kind.__name__ for kind in DlrunError.__subclasses__()}


class Known(Protocol):
    """What the study knows of a point."""

    @property
    def number(self) -> int:
        """Its place in the sweep, from 0."""
        ...

    @property
    def state(self) -> str:
        """``waiting``, ``running`` or one of ``TERMINAL``."""
        ...

    @property
    def point(self) -> Point:
        """Its values and words."""
        ...

    @property
    def value(self) -> float | None:
        """The mean over its seeds once it is done; the last value where it was pruned."""
        ...

    @property
    def error(self) -> str:
        """Why it failed, where no run directory could say so."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Facts beside them: ``reused``."""
        ...


def trial_result(folder: Path, seed: int, metric: str) -> TrialResult:
    """What the run directory says of a trial; ``metric`` such as ``val/accuracy`` is its value. Never raises.

    A trial that was interrupted, or whose process is gone, is waiting: it will go on from its checkpoint.
    """
    try:
        if not has_record(folder):
            return TrialResult(seed, WAITING, folder)
        record = RunDirectory(folder).record()
    except (ConfigError, OSError) as error:
        return TrialResult(seed, FAILED, folder, error=f"its record is damaged: {error}")
    status = str(record.get("status"))
    if status == RUNNING and lock.is_held(folder / "run.lock"):
        return _from_record(record, RUNNING, folder, seed, metric)
    if status in (RUNNING, "interrupted"):
        return _from_record(record, WAITING, folder, seed, metric)
    if status not in TERMINAL:
        return TrialResult(seed, FAILED, folder, error=f"its record has the status '{status}', which none can have")
    return _from_record(record, status, folder, seed, metric)


def collect(
    folder: Path,
    known: Sequence[Known],
    *,
    name: str,
    metric: str,
    higher_is_better: bool,
    space: Space,
    settings: Settings,
    importances: Mapping[str, float] | None = None,
    planned: int | None = None,
    seconds: float = 0.0,
    before: SweepResult | None = None,
) -> SweepResult:
    """The sweep as it stands.

    Args:
        folder: the sweep's.
        known: the study's points.
        name: shown to people.
        metric: such as ``val/accuracy``.
        higher_is_better: whether a larger value of it ranks first.
        space: what is searched.
        settings: how.
        importances: shares of the variance by axis key.
        planned: points in all, where that is known.
        seconds: since the sweep began.
        before: an earlier answer for the same sweep; what cannot have changed since is not read from disk again.
    """
    ended = {trial.folder: trial for point in before.points for trial in point.trials} if before else {}
    ended = {path: trial for path, trial in ended.items() if trial.status in TERMINAL}
    earlier = {point.number: point for point in before.points} if before else {}
    points, sweep = [], SweepDirectory(folder)
    for one in sorted(known, key=lambda point: point.number):
        if (old := earlier.get(one.number)) is not None and _settled(one, old):
            points.append(old)
            continue
        reused = one.attributes.get(REUSED) or {}
        trials = []
        for seed in space.seeds:
            path = Path(reused[str(seed)]) if str(seed) in reused else sweep.trial(one.number, seed)
            trial = ended.get(path) or trial_result(path, seed, metric)
            trials.append(replace(trial, seed=seed, reused=str(seed) in reused))
        points.append(_point_result(one, trials))
    return SweepResult(
        name=name, folder=folder, metric=metric, higher_is_better=higher_is_better, space=space, settings=settings,
        points=tuple(points), importances=dict(importances or {}), planned=planned, seconds=seconds,
    )  # fmt: skip


def counts(result: SweepResult) -> Counter[str]:
    """Trials by status, those of points that are not proposed yet counted as waiting."""
    found = Counter(trial.status for point in result.points for trial in point.trials)
    unborn = max(0, (result.planned or 0) - len(result.points))
    found[WAITING] += unborn * len(result.space.seeds)
    return found


def curve(folder: Path, metric: str) -> list[tuple[float, float]]:
    """The (step, value) pairs of a run's ``metric`` in order, finite ones only; empty where nothing can be read."""
    try:
        rows = History(folder / "history.jsonl").rows()
    except StorageError:
        return []
    pairs = ((_number(row.get("step")), _number(row.get(metric))) for row in rows)
    return [(step, value) for step, value in pairs if step is not None and value is not None and math.isfinite(value)]


def best_trial(result: SweepResult) -> tuple[PointResult, TrialResult] | None:
    """The best value among the seeds of the best point: the run to keep; None while no point has a mean."""
    ranked = result.ranked()
    if not ranked:
        return None
    done = [trial for trial in ranked[0].trials if trial.status == DONE and is_finite(trial.value)]
    choose = max if result.higher_is_better else min
    return ranked[0], choose(done, key=lambda trial: trial.value or 0.0)


def command_of(point: Point, seed: int, more: Sequence[str] = ()) -> str:
    """The line for a shell that runs the point once more, alone; ``more`` are words such as ``--config-dir DIR``."""
    return shlex.join(["dlrun", "train", *point.overrides, f"trainer.seed={seed}", *more])


def axis_keys(result: SweepResult) -> list[str]:
    """The keys of all axes, in the order of the space."""
    return list(dict.fromkeys(axis.key for axis in result.space.axes))


def _from_record(record: Mapping[str, Any], status: str, folder: Path, seed: int, metric: str) -> TrialResult:
    given, best = record.get("metrics"), record.get("best")
    metrics = {str(k): n for k, v in given.items() if (n := _number(v)) is not None} if isinstance(given, dict) else {}
    value = metrics.get(metric)
    if isinstance(best, dict) and best.get("metric") == metric:
        value = _number(best.get("value"))
    if value is None and status == PRUNED and (told := curve(folder, metric)):
        value = told[-1][1]
    steps, packed, error = _number(record.get("steps")), _number(record.get("packed")), str(record.get("error") or "")
    kind, _, sentence = error.partition(": ")
    return TrialResult(
        seed=seed,
        status=status,
        folder=folder,
        value=value,
        metrics=metrics,
        seconds=_number(record.get("seconds")),
        steps=None if steps is None or not math.isfinite(steps) else int(steps),
        error=sentence if kind in _OURS else error,
        packed=0 if packed is None or not math.isfinite(packed) else int(packed),
    )


def _settled(known: Known, old: PointResult) -> bool:
    """Whether nothing can be new: the point still waits, or all of it had ended."""
    ended = known.state in TERMINAL and all(trial.status in TERMINAL for trial in old.trials)
    return known.state == old.state and (ended or known.state == WAITING)


def _point_result(known: Known, trials: list[TrialResult]) -> PointResult:
    """The point's state and mean; of a point that has ended, seeds that were never run are left out."""
    if known.state == FAILED and all(trial.status not in (FAILED, DIVERGED) for trial in trials):
        why = known.error or "it failed before it could begin"
        open_or_empty = (i for i, t in enumerate(trials) if t.status not in TERMINAL or not is_finite(t.value))
        lost = next(open_or_empty, 0)
        trials[lost] = replace(trials[lost], status=FAILED, error=why)
    if known.state == DONE:
        trials = _with_lost(known, trials)
    elif known.state in TERMINAL:
        there = [trial for trial in trials if trial.status in TERMINAL]
        trials = there or [replace(trials[0], status=known.state, value=known.value, error=GONE)]
    states = {trial.status for trial in trials}
    if states <= set(TERMINAL):
        state = next((word for word in WORST_FIRST if word in states), known.state)
    else:
        state = RUNNING if RUNNING in states or known.state == RUNNING else WAITING
    values = [float(t.value) for t in trials if t.status == DONE and t.value is not None and math.isfinite(t.value)]
    mean = statistics.fmean(values) if values else None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return PointResult(known.number, known.point, state, tuple(trials), mean, error)


def _with_lost(known: Known, trials: list[TrialResult]) -> list[TrialResult]:
    """The trials of a point that is done: those whose runs were deleted since share what is left of the mean."""
    lost = [trial for trial in trials if trial.status not in TERMINAL]
    share = None
    if lost and known.value is not None:
        rest = sum(trial.value for trial in trials if trial not in lost and trial.value is not None)
        share = (known.value * len(trials) - rest) / len(lost)
    return [replace(t, status=DONE, value=share, error=GONE) if t in lost else t for t in trials]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def is_finite(value: float | None) -> bool:
    """Whether there is a value that can be ranked."""
    return value is not None and math.isfinite(value)

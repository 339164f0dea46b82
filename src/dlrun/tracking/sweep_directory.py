"""The directory of a sweep: made as a run's is, held by its one master, found again by its name, summed up in one row.

sweep.json     what it is: written once, before its first trial
status.json    how it stands: ``running``, and at its end how that came
sweep.lock     held by the master, as a run's lock by its process
configs/       the config files as they were when it began
study.db       the points
NNNN-seedS/    the trials
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from dlrun.errors import ConfigError, LockedError
from dlrun.tracking import lock
from dlrun.tracking.durable import DISK, Disk, sweep_temporaries
from dlrun.tracking.folders import (
    SWEEP_FILE,
    TRIAL,
    age,
    listing,
    make_unique,
    making,
    nearest,
    now_text,
    record_at,
    second,
    slug,
    sweep_paths,
    sync,
    trial_places,
    write_record,
)

STATUS_FILE = "status.json"
_ENDED = ("done", "pruned", "diverged", "failed")


class SweepDirectory:
    """One sweep on disk.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk

    @classmethod
    def create(cls, root: Path, label: str) -> SweepDirectory:
        """Make ``root/DATE/TIME-sweep-LABEL-RANDOM``; it is a whole sweep once `write_json` has been called.

        Raises:
            StorageError: it cannot be written.
        """
        with making("sweep", root):
            path = make_unique(root, f"sweep-{slug(label)}")
            sync(path.parent, root)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> SweepDirectory:
        """The sweep at ``path``; raises ConfigError when there is none, or its maker was killed too early."""
        if not (path / SWEEP_FILE).is_file():
            what = f"has no {SWEEP_FILE}" if path.is_dir() else "is no folder"
            raise ConfigError(f"{path} is not a sweep: it {what}; `dlrun runs` lists the sweeps there are")
        return cls(path)

    @classmethod
    def find(cls, text: str, root: Path) -> SweepDirectory:
        """The sweep meant by ``text``: ``last``, a directory, or a unique part of a name; raises ConfigError."""
        if text and text != "last" and (Path(text) / SWEEP_FILE).is_file():
            return cls(Path(text).absolute())
        paths = sorted(sweep_paths(root), key=lambda path: age(_begun(path)))
        if not paths:
            raise ConfigError(f"there is no sweep {text!r}: {root} holds no sweeps; `dlrun sweep` makes one")
        wanted = text.strip("/")
        found = [path for path in paths if wanted and wanted in f"{path.parent.name}/{path.name}"]
        exact = [path for path in found if wanted in (path.name, f"{path.parent.name}/{path.name}")]
        if text == "last":  # one without its file is only just being made, or its maker was killed
            return cls.open(([path for path in paths if (path / SWEEP_FILE).is_file()] or paths)[-1])
        if len(found) == 1 or len(exact) == 1:
            return cls.open((exact or found)[0])
        if found:
            raise ConfigError(
                f"{text!r} is part of {len(found)} sweeps: {listing(_newest(found))}; give more of the name"
            )
        names = {path.name: path.name for path in paths}
        raise ConfigError(f"there is no sweep {text!r} in {root}; {nearest(text, names, _newest(paths))}")

    @property
    def name(self) -> str:
        """The directory's own name, TIME-sweep-LABEL-RANDOM."""
        return self.path.name

    @property
    def configs(self) -> Path:
        """The folder of the frozen config files."""
        return self.path / "configs"

    @property
    def study(self) -> Path:
        """Optuna's database, where no URL of another is given."""
        return self.path / "study.db"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def points_table(self) -> Path:
        """The points as a table."""
        return self.path / "points.csv"

    @property
    def trials_table(self) -> Path:
        """The trials as a table."""
        return self.path / "trials.csv"

    def trial(self, number: int, seed: int) -> Path:
        """The run directory of point ``number`` under ``seed``, whoever runs it and however often it is tried."""
        return self.path / f"{number:04d}-seed{seed}"

    def trials(self) -> dict[tuple[int, int], Path]:
        """The run directories that there are, by (point, seed), in that order."""
        found = {}
        for place in trial_places(self.path):
            if match := TRIAL.fullmatch(place.path.name):
                found[int(match[1]), int(match[2])] = place.path
        return dict(sorted(found.items()))

    def lock(self) -> None:
        """Hold the sweep until `unlock` or the end of the process; raises LockedError naming pid, host and start."""
        try:
            lock.acquire(self._lock)
        except LockedError as error:
            raise LockedError(str(error).replace("the run", "the sweep", 1)) from error
        sweep_temporaries(self.path, self._disk)

    def unlock(self) -> None:
        """Let go of the sweep."""
        lock.release(self._lock)

    def is_held(self) -> bool:
        """Whether a living master holds it."""
        return lock.is_held(self._lock)

    def write_json(self, **values: Any) -> None:
        """Write sweep.json, durably and once, with the sweep's name and when it began; raises ConfigError after that.

        `list_sweeps` reads of it ``metric``, ``higher_is_better``, ``planned`` (points) and ``seeds``.
        """
        if (self.path / SWEEP_FILE).exists():
            raise ConfigError(f"{self.path} is a sweep already; go on with it: dlrun sweep --resume {self.path}")
        write_record(self.path / SWEEP_FILE, {"name": self.name, "created": now_text(), **values}, self._disk)

    def read_json(self) -> dict[str, Any]:
        """What sweep.json says; raises ConfigError when it cannot be read."""
        return record_at(self.path / SWEEP_FILE)

    def write_status(self, status: str, **values: Any) -> None:
        """Update status.json durably: ``running`` at the start, else how it ended; only for the holder of the lock.

        `list_sweeps` reads of it ``done`` and ``planned`` (points), ``best`` (``metric`` and ``value``), ``seconds``.
        """
        write_record(self.path / STATUS_FILE, {**self.status(), "status": status, **values}, self._disk)

    def status(self) -> dict[str, Any]:
        """What status.json says; a sweep that says ``running`` while nobody holds its lock has the status ``crashed``.

        Empty where nothing was written yet, or it cannot be read.
        """
        try:
            found = record_at(self.path / STATUS_FILE)
        except ConfigError:
            found = {}
        if self.is_held():
            return found | {"status": "running"}
        return found | ({"status": "crashed"} if found.get("status", "running") == "running" else {})

    @property
    def _lock(self) -> Path:
        return self.path / "sweep.lock"


def list_sweeps(root: Path, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record for each sweep under ``root``, oldest first, with the keys of a run's and ``kind`` ``sweep``.

    ``runs`` is what `list_runs` found. ``points`` has how many are ``done`` of those ``planned`` (None where nobody
    says), ``trials`` counts the trials by status, ``best`` is the best mean over the seeds of a point.
    """
    trials: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for record in runs:
        if isinstance(record.get("sweep"), dict):
            trials[Path(record["path"]).parent].append(record)
    return sorted((_row(path, trials[path]) for path in sweep_paths(root)), key=age)


def _row(path: Path, trials: list[dict[str, Any]]) -> dict[str, Any]:
    record = _begun(path)
    if record.get("status") != "unreadable":
        standing = SweepDirectory(path).status()
        record = {"planned": None, **record, "done": _points_done(trials, record), **standing}
        record["best"] = standing.get("best") or _best(trials, record)
    best = record.get("best") or {}
    return {
        **{key: record[key] for key in ("status", "created", "seconds", "error", "command") if key in record},
        **{key: _joined(trials, key) for key in ("model", "optimizer")},
        "data": {"name": _joined(trials, "data")},
        "kind": "sweep",
        "name": path.name,
        "path": str(path),
        "points": {key: record.get(key) for key in ("done", "planned")},
        "trials": dict(Counter(str(trial.get("status")) for trial in trials)),
        "best": best or None,
        "metrics": {best["metric"]: best["value"]} if best else {},
    }


def _begun(path: Path) -> dict[str, Any]:
    """What sweep.json says, with the folder's own name; ``unreadable`` where it says nothing."""
    try:
        record = SweepDirectory(path).read_json()
    except ConfigError as error:
        record = {"status": "unreadable", "error": str(error)}
    return {**record, "name": path.name, "path": str(path)}


def _points_done(trials: Sequence[dict[str, Any]], sweep: Mapping[str, Any]) -> int:
    """Points of which no trial is left; a pruned one is spared its other seeds."""
    seeds = len(sweep["seeds"]) if isinstance(sweep.get("seeds"), list) else 1
    ended: dict[Any, list[str]] = defaultdict(list)
    for trial in trials:
        ended[trial["sweep"]["point"]].append(str(trial.get("status")))
    whole = [e for e in ended.values() if all(s in _ENDED for s in e) and (len(e) >= seeds or "pruned" in e)]
    return len(whole)


def _best(trials: Sequence[dict[str, Any]], sweep: Mapping[str, Any]) -> dict[str, Any] | None:
    """The best mean of the sweep's metric over the finished seeds of a point.

    As `SweepResult.ranked` has it: a point that lacks a seed comes after all that lack none.
    """
    metric, values = str(sweep.get("metric")), defaultdict(list)
    seeds = len(sweep["seeds"]) if isinstance(sweep.get("seeds"), list) else 1
    lacking = {trial["sweep"]["point"] for trial in trials if trial.get("status") != "done"}
    for trial in trials:
        best, metrics = trial.get("best"), trial.get("metrics")
        value = metrics.get(metric) if isinstance(metrics, dict) else None
        if isinstance(best, dict) and best.get("metric") == metric:
            value = best.get("value", value)
        if trial.get("status") == "done" and isinstance(value, int | float) and isfinite(value):
            values[trial["sweep"]["point"]].append(value)
    if not values:
        return None
    sign = -1.0 if sweep.get("higher_is_better") else 1.0
    best = min(values, key=lambda point: (point in lacking or len(values[point]) < seeds, sign * fmean(values[point])))
    return {"metric": metric, "value": fmean(values[best])}


def _joined(trials: Sequence[dict[str, Any]], key: str) -> str:
    """What the trials have under ``key``: all of up to two values, then how many."""
    found = [trial.get(key) for trial in trials]
    names = sorted({str(v.get("name") if isinstance(v, dict) else v) for v in found if v is not None})
    return ", ".join(names) if len(names) <= 2 else f"{len(names)} of them"


def _newest(paths: Sequence[Path]) -> list[str]:
    """Their names, the newest first."""
    return [path.name for path in sorted(paths, key=second, reverse=True)]

"""The directory of a run: made exclusively, locked for life, described by run.json, found again by its name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError
from dlrun.tracking import lock
from dlrun.tracking.durable import DISK, Disk, replace, sweep_temporaries
from dlrun.tracking.folders import (
    RECORD,
    TRIAL,
    Place,
    age,
    has_record,
    is_sweep,
    listing,
    make_unique,
    making,
    nearest,
    now_text,
    places,
    record_at,
    second,
    slug,
    sweep_paths,
    sync,
    trial_places,
    write_record,
)

_FOLDERS = ("checkpoints", "tensorboard", "plots", "predictions", "export")


class RunDirectory:
    """One run on disk.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk

    @classmethod
    def create(cls, root: Path, label: str) -> RunDirectory:
        """Make ``root/DATE/TIME-LABEL-RANDOM`` and its folders; raises StorageError when that cannot be written."""
        with making("run", root):
            run = cls(make_unique(root, slug(label)))
            run._begin(label)
            sync(run.path.parent, root)
        return run

    @classmethod
    def at(cls, path: Path, label: str) -> RunDirectory:
        """Make the run exactly at ``path``; a folder whose maker was killed before it had a record is completed.

        Raises:
            ConfigError: there is a run at ``path`` already.
            LockedError: another process makes it at this moment.
            StorageError: it cannot be written.
        """
        run = cls(path)
        with making("run", path.parent):
            with suppress(FileExistsError):
                path.mkdir(mode=0o700, parents=True)
            run.lock()
            try:
                if has_record(path):
                    raise ConfigError(f"{path} is a run already; go on with it: dlrun resume {path}")
                sweep_temporaries(path)
                run._begin(label)
                sync(path.parent)
            finally:
                run.unlock()
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run at ``path``; raises ConfigError when there is none."""
        if not has_record(path):
            what = f"has no {RECORD}" if path.is_dir() else "is no folder"
            raise ConfigError(f"{path} is not a run: it {what}; `dlrun runs` lists the runs there are")
        return cls(path)

    @property
    def name(self) -> str:
        """The directory's own name, TIME-LABEL-RANDOM."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The composed configuration."""
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        """The rows of `History`."""
        return self.path / "history.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of `Checkpoints`."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files."""
        return self.path / "tensorboard"

    @property
    def plots(self) -> Path:
        """The folder of pictures."""
        return self.path / "plots"

    @property
    def predictions(self) -> Path:
        """The folder of predictions."""
        return self.path / "predictions"

    @property
    def export(self) -> Path:
        """The folder of exported models."""
        return self.path / "export"

    def lock(self) -> None:
        """Hold the run until `unlock` or the end of the process; raises LockedError naming pid, host and start."""
        lock.acquire(self.path / "run.lock")

    def unlock(self) -> None:
        """Let go of the run, for a process that goes on with another one."""
        lock.release(self.path / "run.lock")

    def write_record(self, **changes: Any) -> None:
        """Update the given keys of run.json, durably and in one step; only for the holder of the lock."""
        self._write({**self.record(), **changes})

    def record(self) -> dict[str, Any]:
        """What run.json says; raises ConfigError when it cannot be read."""
        return record_at(self.path / RECORD)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of the run durably, such as config.yaml or the git diff."""
        replace(self.path / name, [text.encode()], self._disk)
        return self.path / name

    def _begin(self, label: str) -> None:
        """The run's folders, then its first record, which makes it one."""
        for name in _FOLDERS:
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        sync(self.path)
        self._write({"name": self.name, "label": label, "status": "running", "created": now_text(), "attempts": 0})

    def _write(self, record: dict[str, Any]) -> None:
        write_record(self.path / RECORD, record, self._disk)


def outputs_root(explicit: str | None) -> Path:
    """The folder of all runs: ``--outputs DIR``, else ``$DLRUN_OUTPUTS``, else ``./outputs``."""
    return Path(explicit or os.environ.get("DLRUN_OUTPUTS") or "outputs").expanduser().absolute()


def list_runs(root: Path) -> list[dict[str, Any]]:
    """The record of each run and each trial of a sweep under ``root``, oldest first, with its ``name`` and ``path``.

    A trial has a table ``sweep`` with the sweep's ``name`` and the number of its ``point``. A run that cannot be read
    has the status ``unreadable`` and an ``error``; one that says ``running`` while nobody holds its lock has the status
    ``crashed``.
    """
    return sorted((describe(place) for place in places(root)), key=age)


def list_trials(sweep: Path) -> list[dict[str, Any]]:
    """The records of one sweep's trials as `list_runs` has them, by point and seed."""
    found = sorted(trial_places(sweep), key=lambda place: [int(n) for n in TRIAL.findall(place.path.name)[0]])
    return [describe(place) for place in found]


def find_run(text: str, root: Path) -> Path:
    """The run meant by ``text``: ``last``, a directory, or a unique part of a name; raises ConfigError.

    A trial is found by its own name, NNNN-seedS, where one sweep alone has it, else by SWEEP/NNNN-seedS, cut where one
    likes.
    """
    if text == "last":
        return _last(root)
    if text and has_record(Path(text)):
        return Path(text).absolute()
    there = list(places(root))
    wanted = text.strip("/")
    found = [place for place in there if wanted and place.matches(wanted)]
    exact = [place for place in found if place.is_called(wanted)]
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0].path
    if found:
        raise ConfigError(f"{text!r} is part of {len(found)} runs: {listing(_newest(found))}; give more of the name")
    _refuse_sweep(text, root, there)
    if text and Path(text).is_dir():
        raise ConfigError(f"{text} is not a run: it has no {RECORD}; `dlrun runs` lists the runs in {root}")
    if not there:
        raise ConfigError(f"there is no run {text!r}: {root} holds no runs; `dlrun train` makes one")
    short = {place.name if "/" in text else place.path.name: place.name for place in there}
    raise ConfigError(f"there is no run {text!r} in {root}; {nearest(text, short, _newest(there))}")


def _refuse_sweep(text: str, root: Path, there: list[Place]) -> None:
    """A sweep where one run is wanted: say how its trials are named."""
    wanted = text.strip("/")
    given = Path(text)
    paths = [given.absolute()] if text and is_sweep(given) else []
    paths += [path for path in sweep_paths(root) if wanted and wanted in f"{path.parent.name}/{path.name}"]
    if paths:
        name = paths[0].name
        trials = sorted(place.name for place in there if place.sweep == name)
        such = f"name one of its {len(trials)} trials, such as {trials[0]}" if trials else "it has no trials yet"
        raise ConfigError(f"{text!r} is the sweep {name}, not a run: {such} (dlrun runs --sweep {name})")


def _last(root: Path) -> Path:
    """The run or trial that began last; the names tell it of runs, of trials their records alone."""
    there = list(places(root))
    if not there:
        raise ConfigError(f"there is no last run: {root} holds no runs; `dlrun train` makes one")
    newest = max((second(place.path) for place in there if not place.sweep), default=None)
    asked = [place for place in there if place.sweep or second(place.path) == newest]
    return Path(max(map(describe, asked), key=age)["path"])


def describe(place: Place) -> dict[str, Any]:
    """The record of one run as `list_runs` has it."""
    path = place.path
    try:
        record = record_at(path / RECORD)
    except ConfigError as error:
        record = {"status": "unreadable", "error": str(error)}
    if record.get("status") == "running" and not lock.is_held(path / "run.lock"):
        record["status"] = "crashed"
    given, trial = record.pop("sweep", None), TRIAL.fullmatch(path.name)
    if place.sweep and trial:  # where it lies decides: a trial that was copied out of its sweep is a run like others
        known = given if isinstance(given, dict) else {}
        record["sweep"] = {**known, "name": place.sweep, "point": int(trial[1])}
    return {**record, "name": place.name, "path": str(path)}


def _newest(found: list[Place]) -> list[str]:
    """Their names, the newest first."""
    return [place.name for place in sorted(found, key=lambda place: place.full_name, reverse=True)]

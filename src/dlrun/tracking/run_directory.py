"""The directory of a run: made exclusively, locked for life, described by run.json, found again by its name.

Two runs started in one second cannot meet: the name ends in random letters and the folder is made by an exclusive
mkdir.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError, StorageError
from dlrun.tracking import lock
from dlrun.tracking.durable import DISK, Disk, read_small, replace
from dlrun.tracking.jsonable import plain, spoken

RECORD = "run.json"
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_NAME = re.compile(r"\d{6}-.+")
_SHOWN = 6
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
        try:
            run = cls(_make_unique(root, slug(label)))
            for name in _FOLDERS:
                (run.path / name).mkdir(mode=0o700)
            for folder in (run.path, run.path.parent, root):
                DISK.sync_folder(folder)
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(
                f"cannot make a run in {root}: {reason}; choose another folder with --outputs DIR or DLRUN_OUTPUTS"
            ) from error
        created = datetime.now().astimezone().isoformat(timespec="microseconds")
        run._write({"name": run.path.name, "label": label, "status": "running", "created": created, "attempts": 0})
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run at ``path``; raises ConfigError when there is none."""
        if not _has_record(path):
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
        try:
            return _read_record(self.path / RECORD)
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{self.path / RECORD} cannot be read: {error}") from error

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of the run durably, such as config.yaml or the git diff."""
        replace(self.path / name, [text.encode()], self._disk)
        return self.path / name

    def _write(self, record: dict[str, Any]) -> None:
        self.write_text(RECORD, json.dumps(plain(record), indent=2, ensure_ascii=False) + "\n")


def slug(label: str) -> str:
    """``label`` as at most 100 bytes of lower-case ASCII that every file system and shell takes as they are."""
    plain_letters = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.]+", "-", plain_letters)[:100].strip("-.") or "run"


def _make_unique(root: Path, label: str) -> Path:
    while True:
        now = datetime.now()
        ending = "".join(secrets.choice(_LETTERS) for _ in range(4))
        path = root / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{label}-{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path


def _read_record(path: Path) -> dict[str, Any]:
    record = json.loads(read_small(path))
    if not isinstance(record, dict):
        raise ValueError("it is not a table")
    return dict(spoken(record))


def outputs_root(explicit: str | None) -> Path:
    """The folder of all runs: ``--outputs DIR``, else ``$DLRUN_OUTPUTS``, else ``./outputs``."""
    return Path(explicit or os.environ.get("DLRUN_OUTPUTS") or "outputs").expanduser().absolute()


def list_runs(root: Path) -> list[dict[str, Any]]:
    """The record of each run under ``root``, oldest first, with its ``name`` and ``path``.

    A run that cannot be read has the status ``unreadable`` and an ``error``; one that says ``running`` while nobody
    holds its lock has the status ``crashed``.
    """
    records = [_describe(path) for path in _run_paths(root)]
    return sorted(records, key=_age)


def find_run(text: str, root: Path) -> Path:
    """The run meant by ``text``: ``last``, a directory, or a unique part of a name; raises ConfigError."""
    if text == "last":
        return _last(root)
    if text and _has_record(Path(text)):
        return Path(text).absolute()
    paths = {f"{path.parent.name}/{path.name}": path for path in _run_paths(root)}
    wanted = text.strip("/")
    found = [path for name, path in paths.items() if wanted and wanted in name]
    exact = [path for path in found if wanted in (path.name, f"{path.parent.name}/{path.name}")]
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0]
    if found:
        raise ConfigError(f"{text!r} is part of {len(found)} runs: {_listing(found)}; give more of the name")
    if text and Path(text).is_dir():
        raise ConfigError(f"{text} is not a run: it has no {RECORD}; `dlrun runs` lists the runs in {root}")
    if not paths:
        raise ConfigError(f"there is no run {text!r}: {root} holds no runs; `dlrun train` makes one")
    close = difflib.get_close_matches(text, [path.name for path in paths.values()], n=3, cutoff=0.4)
    nearest = f"the nearest names are {', '.join(close)}" if close else f"there are {_listing(list(paths.values()))}"
    raise ConfigError(f"there is no run {text!r} in {root}; {nearest}")


def _last(root: Path) -> Path:
    paths = sorted(_run_paths(root), key=_second)
    if not paths:
        raise ConfigError(f"there is no last run: {root} holds no runs; `dlrun train` makes one")
    tied = [path for path in paths if _second(path) == _second(paths[-1])]
    return max(tied, key=lambda path: _age(_describe(path)))


def _run_paths(root: Path) -> Iterator[Path]:
    """Folders ``root/DATE/RUN`` that hold a record or are named like a run."""
    for day in _folders(root):
        for run in _folders(day):
            if _NAME.fullmatch(run.name) or _has_record(run):
                yield run


def _has_record(path: Path) -> bool:
    try:
        return (path / RECORD).exists()
    except OSError:  # the folder of another user
        return False


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if _is_folder(entry)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _describe(path: Path) -> dict[str, Any]:
    try:
        record = RunDirectory(path).record()
    except ConfigError as error:
        record = {"status": "unreadable", "error": str(error)}
    if record.get("status") == "running" and not lock.is_held(path / "run.lock"):
        record["status"] = "crashed"
    return {**record, "name": path.name, "path": str(path)}


def _second(path: Path) -> tuple[str, str]:
    return path.parent.name, path.name[:6]


def _age(record: dict[str, Any]) -> tuple[tuple[str, str], str, str]:
    path = Path(record["path"])
    return _second(path), str(record.get("created", "")), path.name


def _listing(paths: list[Path]) -> str:
    newest = sorted(paths, key=_second, reverse=True)
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(path.name for path in newest[:_SHOWN]) + more

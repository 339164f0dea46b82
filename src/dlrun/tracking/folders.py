"""The folders under the root of all runs: how they are named and made, and which of them are runs, trials and sweeps.

    ROOT/DATE/TIME-LABEL-RANDOM          a run, with run.json
    ROOT/DATE/TIME-sweep-LABEL-RANDOM    a sweep, with sweep.json
        NNNN-seedS                       a trial of it: point NNNN under seed S, a run like any other

Two made in one second cannot meet: a name ends in random letters and the folder is made by an exclusive mkdir.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from dlrun.errors import ConfigError, StorageError
from dlrun.tracking.durable import DISK, Disk, read_small, replace
from dlrun.tracking.jsonable import plain, spoken

RECORD = "run.json"  # what makes a folder a run
SWEEP_FILE = "sweep.json"  # what makes a folder a sweep
TRIAL = re.compile(r"(\d{4,})-seed(\d+)")
_SHOWN = 6
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_RUN = re.compile(r"\d{6}-.+")
_SWEEP = re.compile(r"\d{6}-sweep-.+")


class Place(NamedTuple):
    """Where a run is.

    Attributes:
        path: its directory.
        sweep: name of the sweep it is a trial of, empty for a run of its own.
    """

    path: Path
    sweep: str = ""

    @property
    def name(self) -> str:
        """The name by which it is found: TIME-LABEL-RANDOM, or SWEEP/NNNN-seedS."""
        return f"{self.sweep}/{self.path.name}" if self.sweep else self.path.name

    @property
    def full_name(self) -> str:
        """The name with its date, as the folders stand below the root."""
        return f"{(self.path.parent if self.sweep else self.path).parent.name}/{self.name}"

    def matches(self, text: str) -> bool:
        """Whether ``text`` is part of its name; a part of a sweep's name alone means none of the trials."""
        whole = self.full_name
        at = whole.rfind(text)
        own = len(whole) - len(self.path.name) if self.sweep else 0
        return at >= 0 and at + len(text) > own

    def is_called(self, text: str) -> bool:
        """Whether ``text`` is its whole name, with or without what stands before."""
        return text in (self.path.name, self.name, self.full_name)


def slug(label: str) -> str:
    """``label`` as at most 100 bytes of lower-case ASCII that every file system and shell takes as they are."""
    plain_letters = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.]+", "-", plain_letters)[:100].strip("-.") or "run"


def make_unique(root: Path, label: str) -> Path:
    """Make ``root/DATE/TIME-LABEL-RANDOM``, which nobody else has; raises OSError."""
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


def sync(*folders: Path) -> None:
    """Wait until the names in these folders are on the device; raises OSError."""
    for folder in folders:
        DISK.sync_folder(folder)


@contextmanager
def making(what: str, root: Path) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError in a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"cannot make a {what} in {root}: {reason}; choose another folder with --outputs DIR or DLRUN_OUTPUTS"
        ) from error


def now_text() -> str:
    """This moment for a record, with the offset of the local time zone."""
    return datetime.now().astimezone().isoformat(timespec="microseconds")


def read_table(path: Path) -> dict[str, Any]:
    """A table written as JSON with `plain`; raises OSError, ValueError or RecursionError when it cannot be read."""
    text = read_small(path)
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("it is not a table")
    # Most tables have no such word, and looking through every value takes longer than reading them.
    return dict(spoken(table)) if b'NaN"' in text or b'Infinity"' in text else table


def record_at(path: Path) -> dict[str, Any]:
    """What `read_table` finds; raises ConfigError in a sentence where it cannot."""
    try:
        return read_table(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def write_record(path: Path, values: Mapping[str, Any], disk: Disk) -> None:
    """Write a table durably, so that `read_table` gives it back; raises StorageError."""
    text = json.dumps(plain(dict(values)), indent=2, ensure_ascii=False) + "\n"
    replace(path, [text.encode()], disk)


def listing(names: Sequence[str]) -> str:
    """The first few names, and how many there are more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def nearest(text: str, names: Mapping[str, str], there: Sequence[str]) -> str:
    """For a name that was not found: those like it (``names``, by how they are called), else what is ``there``."""
    close = [names[name] for name in difflib.get_close_matches(text, names, n=3, cutoff=0.4)]
    return f"the nearest names are {', '.join(close)}" if close else f"there are {listing(there)}"


def places(root: Path) -> Iterator[Place]:
    """Every run under ``root`` and every trial of its sweeps: what holds a record, or is named like one that should."""
    for day in subfolders(root):
        for folder in subfolders(day):
            if is_sweep(folder):
                yield from trial_places(folder)
            elif _RUN.fullmatch(folder.name) or has_record(folder):
                yield Place(folder)


def trial_places(sweep: Path) -> Iterator[Place]:
    """The trials of one sweep, in no order."""
    for folder in subfolders(sweep):
        if TRIAL.fullmatch(folder.name):
            yield Place(folder, sweep.name)


def sweep_paths(root: Path) -> Iterator[Path]:
    """Every sweep under ``root``."""
    for day in subfolders(root):
        yield from (folder for folder in subfolders(day) if is_sweep(folder))


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's, or would be one if its maker had not been killed."""
    if _there(path / SWEEP_FILE):
        return True
    return _SWEEP.fullmatch(path.name) is not None and path.is_dir() and not has_record(path)


def has_record(path: Path) -> bool:
    """Whether a folder is a run."""
    return _there(path / RECORD)


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the folder of another user
        return False


def age(record: dict[str, Any]) -> tuple[tuple[str, str], str, str]:
    """What sorts records by when they began: day and second, for a trial as its record has them."""
    path, created = Path(record["path"]), str(record.get("created", ""))
    if not TRIAL.fullmatch(path.name):
        return second(path), created, path.name
    began = (created[:10], created[11:19].replace(":", "")) if created else second(path.parent)
    return began, created, path.name


def second(path: Path) -> tuple[str, str]:
    """Day and second from the name of a run's or a sweep's folder."""
    return path.parent.name, path.name[:6]


def subfolders(parent: Path) -> list[Path]:
    """The folders in a folder, in no order; none where it cannot be read."""
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

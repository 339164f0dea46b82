"""Which shards belong to which part: a folder, a file, or a pattern with braces and stars."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from dlrun.data.image_parts import PARTS
from dlrun.errors import ConfigError, DataError

LAYOUT = "FOLDER/train-*.tar with val-*.tar and test-*.tar beside it, FOLDER/train/*.tar, or FOLDER/*.tar"
MOST = 100_000  # shards
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_REMOTE = re.compile(r"(?i)^(pipe:|[a-z][a-z0-9+.-]*://)")


def shards_of(key: str, pattern: str) -> list[Path]:
    """The shards that a pattern names, in its order.

    Raises:
        ConfigError: it names no place on this machine, or too many; ``key`` is the setting's name.
        DataError: a shard is missing.
    """
    if _REMOTE.match(pattern):
        raise ConfigError(
            f"{key}={pattern} lies elsewhere: images are read out of the middle of shards, so these have to lie on "
            f"this machine or a mounted disk; copy them, then give {key}=FOLDER."
        )
    names = list(islice(expanded(str(Path(pattern).expanduser())), MOST + 1))
    if len(names) > MOST:
        raise ConfigError(f"{key}={pattern} names more than {MOST:,} shards.")
    found = [file for name in names for file in _matching(key, name)]
    if len(set(found)) < len(found):
        raise ConfigError(f"{key}={pattern} names a shard twice.")
    return found


def expanded(pattern: str) -> Iterator[str]:
    """The names a pattern with braces stands for, as a shell expands it: ``{000..146}`` and ``{a,b}``."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    for choice in _choices(braces[1]):
        yield from expanded(before + choice + after)


def _choices(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = int(numbers[1]), int(numbers[2])
    padded = any(len(number) > 1 and number.startswith("0") for number in numbers.groups())
    width = max(map(len, numbers.groups())) if padded else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield str(number).zfill(width)


def _matching(key: str, name: str) -> list[Path]:
    if Path(name).is_dir():
        return _tars(Path(name))
    if Path(name).exists():
        return [Path(name)]
    found = sorted(map(Path, glob.glob(name))) if glob.has_magic(name) else []  # noqa: PTH207 - the pattern has a root
    if not found:
        raise DataError(f"{name} is missing ({key}).")
    return found


def parts_of(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The shards of each part of a folder (a lone ``train`` where their names do not tell), and notes.

    Raises:
        DataError: there are none.
    """
    below = {part: [file for name in names for file in _tars(folder / name)] for part, names in PARTS.items()}
    if below["train"]:
        return {part: files for part, files in below.items() if files}, []
    shards = _tars(folder)
    if not shards:
        raise DataError(f"{folder} has no shards: expected {LAYOUT}.")
    told = {file: _part(file.name) for file in shards}
    if "train" not in told.values():
        return {"train": shards}, []
    found = {part: [file for file in shards if told[file] == part] for part in PARTS}
    other = [file for file in shards if told[file] is None]
    notes = [f"{len(other)} shards that no part is named for were passed over, such as {other[0]}."] if other else []
    return {part: files for part, files in found.items() if files}, notes


def _part(name: str) -> str | None:
    """The part whose name a shard's begins with, followed by no letter."""
    word = re.match(r"[a-z]*", name.lower())
    return next((part for part, names in PARTS.items() if word and word[0] in names), None)


def _tars(folder: Path) -> list[Path]:
    """The visible .tar files of a folder, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    try:
        return sorted(f for f in folder.iterdir() if f.suffix == ".tar" and not f.name.startswith(".") and f.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.") from error

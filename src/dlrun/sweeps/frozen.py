"""A sweep's own copy of all config files: what is edited later changes nothing. No torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlrun.config import config_dir
from dlrun.errors import ConfigError, StorageError

MOST_FILES = 2_000  # YAML files in one folder of configs
MOST_SEEN = 100_000  # entries that are looked at to find them
RUN_FILES = ("run.json", "sweep.json")  # what makes a folder a run or a sweep: the YAML in it is no config group


def freeze(config_dirs: Sequence[Path], folder: Path) -> None:
    """Copy the user's folders of config files and dlrun's own, so that composing from the copies gives the same.

    Only ``*.yaml`` files are copied; links are followed, hidden folders and those of runs are left out. The copy
    appears whole or not at all.

    Args:
        config_dirs: the user's folders, the first one wins.
        folder: gets a folder 0, 1, ... for each, dlrun's own last; must not be there yet.

    Raises:
        ConfigError: a folder that is missing, unreadable, or too big to be one of configs.
        StorageError: the copy cannot be written.
    """
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for number, source in enumerate((*config_dirs, config_dir())):
        if not source.is_dir():
            raise ConfigError(f"--config-dir {source}: there is no such folder")
        target = unfinished / str(number)
        _make(target)
        for name in _yaml_files(source):
            _copy(source / name, target / name)
    try:
        unfinished.rename(folder)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def frozen_dirs(folder: Path) -> tuple[list[Path], Path]:
    """The copies that ``freeze`` made: the user's folders, and dlrun's own.

    Raises:
        ConfigError: they are not there.
    """
    numbered = [path for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    found = sorted(numbered, key=lambda path: int(path.name))
    if not found:
        raise ConfigError(f"{folder}: the config files of this sweep are missing, so its points cannot be composed")
    return found[:-1], found[-1]


def _yaml_files(root: Path) -> Iterator[Path]:
    """The config files below a folder, relative to it."""
    seen = count = 0
    visited: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise ConfigError(f"--config-dir {root}: {error.filename} cannot be read: {error.strerror}") from error

    for here, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(here).stat()
        place = (status.st_dev, status.st_ino)
        again = place in visited  # a link to a folder above
        visited.add(place)
        if again or (Path(here) != root and any(name in files for name in RUN_FILES)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        seen += len(folders) + len(files)
        names = sorted(name for name in files if name.endswith(".yaml"))
        count += len(names)
        if seen > MOST_SEEN or count > MOST_FILES:
            raise ConfigError(f"--config-dir {root}: too many files; name the folder that holds config groups alone")
        yield from (Path(here, name).relative_to(root) for name in names)


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        return  # a link to nothing: Hydra does not see it either
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    _make(target.parent)
    try:
        target.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror}") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error

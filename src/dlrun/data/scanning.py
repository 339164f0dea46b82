"""Lists of many files: found fast, kept small, with a sign of life on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch import Tensor

from dlrun.errors import DataError

SILENT = 2.0  # seconds before a count is shown
OFTEN = 0.2


class Names(Sequence[str]):
    """Strings that do not change, in one block of bytes: a tenth of a list's memory.

    A worker process that reads one copies nothing: the strings of a list would be copied page by page from the process
    that forked it, for each reading writes a reference count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._block = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        end = int(self._ends[index])  # raises IndexError
        index %= len(self._ends)
        return os.fsdecode(self._block[int(self._ends[index - 1]) if index else 0 : end])

    def take(self, rows: Tensor) -> Names:
        """The strings at some places."""
        return Names(self[row] for row in rows.tolist())


class Count:
    """How many files were found so far, on a terminal, once it takes longer than two seconds."""

    def __init__(self, what: str) -> None:
        self._what, self._found = what, 0
        self._due = time.monotonic() + SILENT
        self._shown = False
        self._terminal = sys.stderr.isatty()

    def add(self, found: int = 1) -> None:
        """Count some more, and show it where that is due."""
        self._found += found
        if self._terminal and time.monotonic() >= self._due:
            self._due = time.monotonic() + OFTEN
            self._shown = True
            print(f"\r{self._what}: {self._found:,}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Wipe the line, where one was shown."""
        if self._shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def files_below(folder: str, suffixes: Sequence[str], count: Count | None = None) -> tuple[list[str], int]:
    """The files under a folder with one of the suffixes, as sorted paths from it, and how many entries do not count.

    Hidden entries, other kinds of files, links to folders and dangling or circular links do not count; pipes and
    sockets do not either, so that nothing here can block. The type comes with the listing: a file costs no look at it.

    Raises:
        DataError: a folder cannot be listed.
    """
    found: list[str] = []
    ignored = 0
    folders = [""]
    while folders:
        inside = folders.pop()
        before = len(found)
        for entry in _entries(folder, inside):
            name = entry.name
            if name.startswith("."):
                ignored += 1
            elif _is_folder(entry):
                if entry.is_symlink():
                    ignored += 1
                else:
                    folders.append(f"{inside}{name}{os.sep}")
            elif os.path.splitext(name)[1].lower() in suffixes and _is_file(entry):  # noqa: PTH122 - a third of the time
                found.append(inside + name)
            else:
                ignored += 1
        if count is not None:
            count.add(len(found) - before)
    return sorted(found, key=lambda name: name.split(os.sep)), ignored  # noqa: PTH206 - as paths are sorted


def _entries(folder: str, inside: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(os.path.join(folder, inside) if inside else folder) as entries:  # noqa: PTH118
            yield from entries
    except OSError as error:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False

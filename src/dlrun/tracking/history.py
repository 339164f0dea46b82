"""history.jsonl: one line for each logging step and each evaluation, appended with one write.

A crash can tear only the last line. Readers skip it; the next append by the holder of the run's lock removes it first,
so that no row is ever glued to a torn one. A log never ends training: a row that the disk refuses is counted, not
raised.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from dlrun.errors import StorageError
from dlrun.tracking.durable import DISK, Disk, read_small, replace
from dlrun.tracking.jsonable import plain, spoken

_LIMIT = 4 << 30


class History:
    """The rows of one run.

    Attributes:
        notes: one sentence for each thing that was dropped or repaired, for the console.
        lost: rows that the disk refused.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self.notes: list[str] = []
        self.lost = 0
        self._disk = disk
        self._fd = -1

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; NaN and infinities become strings. Never raises for the disk: see ``lost`` and ``notes``."""
        line = json.dumps(plain(row), separators=(",", ":")).encode() + b"\n"
        try:
            if self._fd < 0:
                self._open()
            self._write(line)
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                self.notes.append(f"rows are missing from {self.path}: {error.strerror or error}")

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows in order; a torn or damaged line is left out and noted. Changes nothing on disk."""
        lines = self._lines()
        rows = [row for row in map(_row, lines) if row is not None]
        if len(rows) < len(lines):
            self.notes.append(f"{len(lines) - len(rows)} damaged lines of {self.path} are left out")
        return rows

    def truncate(self, step: int) -> None:
        """Drop the rows after ``step`` durably, when a run goes on from there; rows without a step stay."""
        self.close()
        kept = []
        for line in self._lines():
            row = _row(line)
            if row is not None and not _after(row.get("step"), step):
                kept.append(line + b"\n")
        if self.path.exists():
            replace(self.path, [b"".join(kept)], self._disk)

    def sync(self) -> None:
        """Wait until the rows are on the device; call before a checkpoint, so that no power cut takes its past."""
        if self._fd >= 0:
            try:
                self._disk.sync(self._fd)
            except OSError as error:
                self.notes.append(f"rows of {self.path} may not be on the disk: {error.strerror or error}")

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(self.path, flags, 0o600)
        try:
            self._repair_tail(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _repair_tail(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        tail = _tail(fd, size)
        if not tail:
            return
        if _row(tail) is not None:  # whole but for its newline: no proper prefix of an object is an object
            os.write(fd, b"\n")
            return
        os.ftruncate(fd, size - len(tail))
        self.notes.append(f"the last line of {self.path} was torn by a crash and is dropped ({len(tail)} bytes)")

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if os.write(self._fd, line) != len(line):
            os.ftruncate(self._fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lines(self) -> list[bytes]:
        try:
            text = read_small(self.path, _LIMIT)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from error
        return [line for line in text.split(b"\n") if line]


def _tail(fd: int, size: int) -> bytes:
    """What follows the last newline."""
    tail = b""
    while len(tail) < size and b"\n" not in tail:
        begin = max(0, size - len(tail) - 65536)
        tail = os.pread(fd, size - len(tail) - begin, begin) + tail
    return tail.rpartition(b"\n")[2]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return spoken(row) if isinstance(row, dict) else None


def _after(step: Any, last: int) -> bool:
    return isinstance(step, (int, float)) and step > last

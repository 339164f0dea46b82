"""The lock of a run: a POSIX record lock, freed by the kernel however its holder dies.

Not ``flock``, which forked workers inherit and keep after their parent is killed. A POSIX lock has one trap: closing
*any* descriptor of the file in the holding process drops it, so only this module opens the file, and never twice. The
file's content is for messages; nobody decides anything by it. Where there is no ``fcntl`` (Windows) nothing is locked.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dlrun.errors import LockedError, StorageError
from dlrun.tracking.durable import open_regular, read_small

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# struct flock: what F_GETLK fills in. Asking does not take the lock, so that a listing never makes a starting run fail.
_FLOCK = {"linux": "hhqqi4x", "darwin": "qqihh"}.get(sys.platform)
_HELD: dict[tuple[int, str], int] = {}  # (process, path) -> descriptor; a forked child holds nothing of its parent's


def acquire(path: Path) -> None:
    """Hold the lock file ``path`` until `release` or the end of the process; raises LockedError naming the holder."""
    key = _key(path)
    if key in _HELD:
        raise LockedError(_sentence(path, f"this very process, {os.getpid()}"))
    if fcntl is None:
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot open the lock {path}: {error.strerror or error}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        message = _sentence(path, _describe(_holder_by_kernel(fd), _content(fd)))
        os.close(fd)
        raise LockedError(message) from error
    except OSError as error:
        os.close(fd)
        raise StorageError(f"cannot lock {path}: {error.strerror or error}; use a file system with locks") from error
    _HELD[key] = fd
    _describe_self(fd)


def release(path: Path) -> None:
    """Give the lock back; nothing happens when this process does not hold it."""
    fd = _HELD.pop(_key(path), None)
    if fd is not None:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether some living process holds the lock, this one included; takes nothing and never waits."""
    if _key(path) in _HELD:
        return True
    if fcntl is None:
        return path.exists()
    try:
        with open_regular(path) as fd:
            return _holder_by_kernel(fd) is not None
    except OSError:
        return False


def holder(path: Path) -> dict[str, Any]:
    """What the last holder wrote of itself (pid, host, started); empty when unreadable. For messages only."""
    if _key(path) in _HELD:
        return _content(_HELD[_key(path)])
    try:
        return _parsed(read_small(path, 4096))
    except OSError:
        return {}


def _key(path: Path) -> tuple[int, str]:
    return os.getpid(), os.path.realpath(path)


def _describe_self(fd: int) -> None:
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}).encode() + b"\n"
    with suppress(OSError):  # a full disk must not stop a run that holds its lock
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)


def _content(fd: int) -> dict[str, Any]:
    try:
        return _parsed(os.pread(fd, 4096, 0))
    except OSError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _holder_by_kernel(fd: int) -> int | None:
    """The holder's process number, None when free, 0 when it is out of sight (another host or container)."""
    if _FLOCK is None:
        return 0
    linux = sys.platform == "linux"
    blank = (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0) if linux else (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
    answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(_FLOCK, *blank)))
    kind, pid = (answer[0], answer[4]) if linux else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else max(0, int(pid))


def _describe(pid: int | None, content: dict[str, Any]) -> str:
    # The kernel's number is certain; the file's is what a holder in another container or on another host calls itself.
    if pid and content.get("pid") not in (None, pid):
        return f"process {pid}"
    pid = content.get("pid") or pid
    if not pid:
        return "another process"
    details = [f"on {content['host']}" if "host" in content else "", f"since {content['started']}" if content else ""]
    return " ".join([f"process {pid}", *filter(None, details)])


def _sentence(path: Path, who: str) -> str:
    return f"the run {path.parent} is in the hands of {who}; wait for it or stop it, then try again"

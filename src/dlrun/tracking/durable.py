"""Files that survive a crash: the one place where dlrun writes what it promises to keep.

The order is the whole secret (Pillai et al., OSDI 2014, "All File Systems Are Not Created Equal"): a temporary file in
the same directory, its data synced, read back and compared, then renamed, then the directory synced. Until the rename
the old file is untouched; after it the new one is whole. The usual order reads back after the rename; here it comes
before, because a rename onto ``best.ckpt`` ends the life of the best one before.

Nothing here imports torch, so that the tests can kill a small process at every system call of a save.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dlrun.errors import StorageError

CHUNK = 1 << 20
TEMPORARY = ".tmp-"
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Disk:
    """The system calls of a durable write, one method each, so that a test can record, drop or fail them."""

    def create(self, path: Path) -> int:
        """Open a new file for reading and writing; it must not exist, not even as a link."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Append all of ``data`` (bytes, or a one-dimensional view of bytes)."""
        view = memoryview(data)
        while view:
            written = os.write(fd, view[:CHUNK])
            if written == 0:
                raise OSError(errno.EIO, "the disk took no bytes")
            view = view[written:]

    def sync(self, fd: int) -> None:
        """Wait until the file's data is on the device. After an error the file is dead: never sync it again."""
        os.fsync(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Read back at most ``size`` bytes from ``offset``."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def close(self, fd: int) -> None:
        """Close the file; an error here is an error of the write."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Put ``old`` in the place of ``new`` in one step."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove one file."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Wait until names made, renamed and removed in ``folder`` are on the device."""
        if os.name == "nt":
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free(self, folder: Path) -> int:
        """Bytes that this user may still write in ``folder``."""
        if not hasattr(os, "statvfs"):
            return sys.maxsize
        facts = os.statvfs(folder)
        return facts.f_bavail * facts.f_frsize


DISK = Disk()


def replace(path: Path, chunks: Sequence[bytes | memoryview], disk: Disk = DISK) -> int:
    """Make ``path`` hold exactly ``chunks``, through a crash or a power cut either the old file or the new one.

    Returns the bytes written. Raises StorageError in a sentence when the disk refuses; the old file is then intact.
    """
    size = sum(len(chunk) for chunk in chunks)
    temporary = path.with_name(f"{TEMPORARY}{path.name[:100]}-{secrets.token_hex(8)}")
    try:
        require_space(path, size, disk)
        _write_and_compare(temporary, chunks, disk)
        disk.rename(temporary, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            disk.remove(temporary)
        raise _refused(path, size, error, disk) from error
    return size


def _write_and_compare(temporary: Path, chunks: Sequence[bytes | memoryview], disk: Disk) -> None:
    fd = disk.create(temporary)
    try:
        for chunk in chunks:
            disk.write(fd, chunk)
        disk.sync(fd)
        _compare(fd, chunks, disk)
    except BaseException:
        with suppress(OSError):
            disk.close(fd)
        raise
    disk.close(fd)


def _compare(fd: int, chunks: Sequence[bytes | memoryview], disk: Disk) -> None:
    """Read the file back against what is still in memory: exact, and cheaper than a digest."""
    offset = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            found = disk.read(fd, min(len(view), CHUNK), offset)
            if not found or found != bytes(view[: len(found)]):
                raise OSError(errno.EIO, "the disk gave back other bytes than were written")
            offset += len(found)
            view = view[len(found) :]


def require_space(path: Path, size: int, disk: Disk = DISK) -> None:
    """Raise StorageError unless ``size`` bytes are free where ``path`` is to be written."""
    free = disk.free(path.parent)
    if size > free:
        raise StorageError(f"cannot write {path}: it needs {_mb(size)} and {_mb(free)} is free; {_REMEDY}")


_REMEDY = "what was saved before is intact: free some space or choose another folder with --outputs DIR"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _refused(path: Path, size: int, error: OSError, disk: Disk) -> StorageError:
    try:
        space = f"it needs {_mb(size)} and {_mb(disk.free(path.parent))} is free"
    except OSError:
        space = f"it needs {_mb(size)}"
    return StorageError(f"cannot write {path}: {error.strerror or error} ({space}); {_REMEDY}")


def sweep_temporaries(folder: Path, disk: Disk = DISK) -> None:
    """Remove the temporaries that killed writers left in ``folder``; only for the holder of the run's lock."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(TEMPORARY):
                with suppress(OSError):
                    disk.remove(path)


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open an ordinary file for reading, once; a link, a pipe or a folder raises OSError and never blocks."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _SAFE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not an ordinary file")
        yield fd
    finally:
        os.close(fd)


def read_small(path: Path, limit: int = 16 << 20) -> bytes:
    """All bytes of an ordinary file of at most ``limit`` bytes; raises OSError."""
    with open_regular(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {_mb(size)}, more than {_mb(limit)}")
        parts = []
        while part := os.read(fd, CHUNK):
            parts.append(part)
        return b"".join(parts)

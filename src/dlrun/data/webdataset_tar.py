"""The members of a tar archive: name, place and length of each file, from the headers alone.

Formats: POSIX ustar and pax (IEEE Std 1003.1-2017, "pax Interchange Format"), and GNU's long names and numbers in base
256 (the tar manual, "Basic Tar Format"). A header is believed only when its checksum is right. Python's ``tarfile``
reads the same, four times slower, and takes an archive that was cut between two members for a whole one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlrun.errors import DataError

BLOCK = 512
LARGEST = 2**20  # bytes of an extended header
DIGITS = 18  # of a number that means something; Python refuses to read one of thousands
_FILES = frozenset(b"0\x007")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file in an archive: its bytes are ``[offset, offset + size)`` of the archive."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """The regular files of an archive in their order; folders and links are passed over, nothing is unpacked.

    Raises:
        DataError: the archive cannot be read, is compressed, damaged or cut short; names it.
    """
    try:
        with path.open("rb") as file:
            yield from _walk(path, file.fileno())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _walk(path: Path, fd: int) -> Iterator[Member]:
    length, at = os.fstat(fd).st_size, 0
    extended: dict[str, str] = {}  # what an extended header says of the member after it
    while True:
        header = os.pread(fd, BLOCK, at)
        if len(header) < BLOCK:
            raise DataError(f"{path} is cut short: the archive ends at byte {length:,} without its end mark.")
        if not header.strip(b"\0"):
            return
        _check(path, header, at)
        size = _number(header[124:136])
        kind, begin = header[156], at + BLOCK
        describing = chr(kind) in "xL"
        if not describing:
            size = _size(path, extended.get("size"), size, at)
        if begin + size > length:
            raise DataError(f"{path} is cut short: a member at byte {at:,} has {size:,} bytes.")
        if describing:
            text = os.pread(fd, min(size, LARGEST), begin)
            extended |= _records(text) if kind == ord("x") else {"path": os.fsdecode(text.rstrip(b"\0"))}
        else:
            if kind in _FILES and (name := extended.get("path") or _name(header)):
                yield Member(name, begin, size)
            if chr(kind) not in "gK":
                extended = {}
        at = begin + -(-size // BLOCK) * BLOCK


def _check(path: Path, header: bytes, at: int) -> None:
    """Refuse a block that is no header: its checksum counts the checksum's own field as blanks."""
    told = header[148:156].strip(b" \0")
    if not told or told.strip(b"01234567") or int(told, 8) != sum(header) - sum(header[148:156]) + 8 * 32:
        packed = _MAGIC.get(header[:2]) if at == 0 else None
        if packed:
            raise DataError(
                f"{path} is compressed ({packed}): images are read out of the middle of a shard, so unpack it to a "
                "plain .tar first (the images in it are compressed already)."
            )
        raise DataError(f"{path} is {'no tar archive' if at == 0 else f'damaged at byte {at:,}'}.")


def _size(path: Path, told: str | None, size: int, at: int) -> int:
    """The length of a member, which an extended header may tell; never below 0, or the walk would turn back."""
    if told is not None and not (told.isascii() and told.isdigit() and len(told) <= DIGITS):
        raise DataError(f"{path} is damaged at byte {at:,}.")
    return size if told is None else int(told)


def _name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0", 1)[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else 0


def _records(text: bytes) -> dict[str, str]:
    """The records ``"LENGTH KEY=VALUE\\n"`` of a pax header; LENGTH counts the whole record."""
    found = {}
    while text.strip(b"\0"):
        length, _, _ = text.partition(b" ")
        if not length.isdigit() or len(length) > DIGITS or not 0 < int(length) <= len(text):
            break
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        found[os.fsdecode(key)] = os.fsdecode(value)
        text = text[int(length) :]
    return found


def name_before(fd: int, offset: int) -> str:
    """The name of the member whose bytes begin at ``offset``, as its own header has it: a long one may be cut."""
    return _name(os.pread(fd, BLOCK, offset - BLOCK))

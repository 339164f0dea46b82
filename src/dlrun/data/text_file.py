"""Reading plain text: encodings, line ends, and the files that only look like text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dlrun.data.csv_file import FOREIGN
from dlrun.errors import DataError, nearest

MAX_BYTES = 256 * 1024**2  # as tokens of 8 bytes a text takes eight times its size on disk
CONTROL = frozenset(map(chr, range(32))) - frozenset("\t\n\r\f\v\x1b")
MOST_CONTROL = 0.001  # of all characters: a text has a stray one at most


class TextFile:
    """What a file says.

    Attributes:
        path: the file.
        text: its characters, every line ending in a line feed.
        encoding: ``UTF-8``, ``UTF-16``, ``UTF-32`` or ``latin-1``.
        digest: SHA-256 of its bytes.
    """

    def __init__(self, path: Path) -> None:
        """Read a regular file of at most 256 MiB.

        Raises:
            DataError: it is missing, empty, too large, binary, or in another encoding.
        """
        self.path = path
        content = read_bytes(path)
        self.text, self.encoding = decode(path, content)
        self.digest = hashlib.sha256(content).hexdigest()

    @property
    def note(self) -> tuple[str, ...]:
        """A sentence on the encoding, where it had to be guessed."""
        if self.encoding != "latin-1":
            return ()
        return (f"{self.path.name} is not UTF-8 and was read as latin-1 (Windows-1252)",)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        DataError: see ``TextFile``.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder where one text file is wanted; give {path / 'FILE.txt'}")
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is a pipe, socket or device; give a regular file: data.path=FILE.txt")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise DataError(
                f"{path} has {size / 1024**2:,.0f} MiB; texts of up to {MAX_BYTES // 1024**2} MiB are read: take a"
                f" part of it with 'head -c {MAX_BYTES} {path} > part.txt'"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(missing(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def missing(path: Path) -> str:
    """The sentence for a path that is not there, with the nearest name beside it."""
    if not path.parent.is_dir():
        return f"{path} does not exist, nor does its folder {path.parent}; give an existing file: data.path=FILE"
    close = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    return f"{path} does not exist; " + (f"did you mean {path.parent / close}?" if close else "give an existing file")


def decode(path: Path, content: bytes) -> tuple[str, str]:
    """Characters with line feeds alone at the line ends, and the name of the encoding.

    Raises:
        DataError: nothing but blanks, another kind of file, or bytes that are no text.
    """
    if not content.strip():
        raise DataError(f"{path} is empty; give a file with text in it: data.path=FILE")
    start = content[:64].lstrip().lower()
    for magic, meaning in FOREIGN.items():
        if "html" not in meaning.lower() and start.startswith(magic.lower()):
            raise DataError(f"{path} is {meaning.partition(';')[0]}, not plain text; save or unpack it as a text file")
    text, encoding = _characters(path, content)
    if "\0" in text:
        raise DataError(f"{path}, line {_line(text, text.index(chr(0)))}: a NUL byte; this is a binary or damaged file")
    odd = [i for i, character in enumerate(text[: 1024**2]) if character in CONTROL]
    if len(odd) > max(MOST_CONTROL * min(len(text), 1024**2), 1):
        raise DataError(
            f"{path}, line {_line(text, odd[0])}: byte 0x{ord(text[odd[0]]):02x} is a control code, and there are "
            f"{len(odd):,} of them; this is a binary or damaged file"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _characters(path: Path, content: bytes) -> tuple[str, str]:
    wide = "UTF-32" if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else None
    wide = wide or ("UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else None)
    attempts: Sequence[str] = (wide,) if wide else ("UTF-8-sig", "cp1252")
    for encoding in attempts:  # Windows-1252 is latin-1 with characters where latin-1 has control codes
        try:
            return content.decode(encoding), {"UTF-8-sig": "UTF-8", "cp1252": "latin-1"}.get(encoding, encoding)
        except UnicodeDecodeError as error:
            found = error
    raise DataError(
        f"{path}, line {content.count(10, 0, found.start) + 1}: byte 0x{content[found.start]:02x} is not "
        f"{wide or 'UTF-8 or latin-1'} text; this is a binary or damaged file, or save it as UTF-8"
    )


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1

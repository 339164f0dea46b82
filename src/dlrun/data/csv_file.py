"""Reading a table from a text file: encoding, separator, header and the line at which each row begins.

Everything stays text here; ``columns.py`` turns text into numbers. Every fault of the file is a DataError that names
the file and, where there is one, the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dlrun.data.columns import Numbers, is_number, to_numbers
from dlrun.errors import DataError, nearest

MAX_BYTES = 512 * 1024**2  # as Python text a table takes about 15 times its size on disk
MAX_COLUMNS = 20_000
SAMPLE_LINES = 100
SAMPLE_CHARACTERS = 1024**2
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "spaces"}
FOREIGN = {
    b"\x1f\x8b": "gzip-compressed; unpack it with gunzip",
    b"BZh": "bzip2-compressed; unpack it with bunzip2",
    b"\xfd7zXZ": "xz-compressed; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it with unzstd",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it or save it as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; save it as CSV",
    b"PAR1": "a Parquet file; save it as CSV",
    b"\x93NUMPY": "a NumPy array; save it as CSV",
    b"\x89PNG": "a picture; a folder of pictures is read by data=image_folder",
    b"\xff\xd8\xff": "a picture; a folder of pictures is read by data=image_folder",
    b"%PDF": "a PDF document; save the table as CSV",
    b"SQLite format 3": "a SQLite database; save the table as CSV",
    b"<!doctype html": "an HTML page; fetch the data file itself",
    b"<html": "an HTML page; fetch the data file itself",
    b"version https://git-lfs": "a pointer of git-lfs; fetch the file with 'git lfs pull'",
}
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        path: the file it was read from.
        names: a distinct name for each column; ``column_0``, ``column_1``, ... where the file has no header.
        columns: the texts of each column, without surrounding blanks.
        lines: for each row the line of the file at which it begins, counted from 1.
        header: whether the names stand in the file.
        notes: one sentence for each thing that was decided while reading.
        digest: SHA-256 of the file's bytes.
    """

    path: Path
    names: tuple[str, ...]
    columns: tuple[list[str], ...]
    lines: list[int]
    header: bool
    notes: tuple[str, ...]
    digest: str
    _numbers: dict[int, Numbers] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, column: int) -> Numbers:
        """A column as numbers, converted once however often it is asked for."""
        if column not in self._numbers:
            self._numbers[column] = to_numbers(self.columns[column])
        return self._numbers[column]

    def cell(self, row: int, column: int) -> str:
        """Where a value stands, for an error's sentence."""
        return f"{self.path}, line {self.lines[row]}, column '{self.names[column]}'"


def read_table(path: Path, header: bool | None = None, known: Collection[str] = (), prefer_rows: bool = False) -> Table:
    """Read a table of any usual separator and encoding.

    Args:
        path: a regular file of at most 512 MiB.
        header: whether the first row holds the names; None finds out.
        known: names that, found in the first row, make it a header (a target given by name, a trained model's columns).
        prefer_rows: in doubt (nothing but texts), take the first row for a row and not for a header.

    Raises:
        DataError: for a file that is missing, empty, binary, undecodable, ragged, or ends inside a quote.
    """
    content = _read_bytes(path)
    text, notes = _decode(path, content)
    separator = _sniff(text)
    fields = text.count(separator, 0, text.find("\n") % (len(text) + 1)) + 1  # not found is -1: to the end
    if fields > MAX_COLUMNS:  # before each becomes a Python object
        raise DataError(f"{path}, line 1: {fields:,} fields; tables of up to {MAX_COLUMNS:,} columns are read")
    rows, lines = _parse(path, text, separator)
    if not rows:
        raise DataError(f"{path} is empty: it has no row; give a file with a header and rows: data.path=FILE")
    _refuse_ragged(path, rows, lines, separator)
    if header is None:
        header = _has_header(rows, known, prefer_rows)
    names = tuple(f"column_{i}" for i in range(len(rows[0])))
    if header:
        names, renamed = _distinct(rows.pop(0))
        lines.pop(0)
        notes += renamed
    if not rows:
        raise DataError(f"{path} has only a header, no rows (if its one line is a row, add data.header=false)")
    columns = tuple([value.strip() for value in column] for column in zip(*rows, strict=True))
    if separator != ",":
        columns, commas = _decimal_points(names, columns)
        notes += commas
    return Table(path, names, columns, lines, header, tuple(notes), hashlib.sha256(content).hexdigest())


def _read_bytes(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise DataError(_cannot_open(path, error)) from None
    try:
        _refuse_odd(path, os.fstat(descriptor))
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _refuse_odd(path: Path, info: os.stat_result) -> None:
    """Refuse a folder, a pipe or a file too big before anything of it is read."""
    if stat.S_ISDIR(info.st_mode):
        raise DataError(
            f"{path} is a folder; give one file: data.path={path}/FILE.csv (folders of pictures: data=image_folder)"
        )
    if not stat.S_ISREG(info.st_mode):
        raise DataError(f"{path} is a pipe, socket or device; give a regular file: data.path=FILE.csv")
    if info.st_size > MAX_BYTES:
        raise DataError(
            f"{path} has {info.st_size / 1024**2:,.0f} MiB; tables of up to {MAX_BYTES // 1024**2} MiB are read:"
            f" take a part of it with 'head -n 1000000 {path} > part.csv'"
        )


def _cannot_open(path: Path, error: OSError | ValueError) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}"
    if path.is_symlink():
        return f"{path} is a link to a file that does not exist; give the file itself: data.path=FILE"
    folder = path.parent
    if not folder.is_dir():
        return f"{path} does not exist, nor does its folder {folder}; give an existing file: data.path=FILE"
    close = nearest(path.name, (entry.name for entry in folder.iterdir()))
    hint = f"did you mean data.path={folder / close}?" if close else "give an existing file: data.path=FILE"
    return f"{path} does not exist; {hint}"


def _decode(path: Path, content: bytes) -> tuple[str, list[str]]:
    """The file's text, and a note when its encoding had to be guessed."""
    if not content.strip():
        raise DataError(f"{path} is empty; give a file with a header and rows: data.path=FILE")
    start = content[:64].lstrip().lower()
    for magic, meaning in FOREIGN.items():
        if start.startswith(magic.lower()):
            raise DataError(f"{path} is {meaning}")
    encoding, notes = "utf-8-sig", []
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encoding = "utf-32"
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise DataError(_undecodable(path, content, error, encoding.upper())) from None
        try:  # Windows-1252 is latin-1 with printable characters where latin-1 has control codes
            text = content.decode("cp1252")
        except UnicodeDecodeError as second:
            raise DataError(_undecodable(path, content, second, "UTF-8 or Windows-1252")) from None
        notes = [f"{path.name} is not UTF-8 and was read as latin-1 (Windows-1252)"]
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: a NUL byte; this is a binary or damaged file; save it as UTF-8 text")
    return text, notes


def _undecodable(path: Path, content: bytes, error: UnicodeDecodeError, encoding: str) -> str:
    before = content[: error.start].decode(error.encoding, errors="ignore")
    byte = content[error.start]
    return f"{path}, line {before.count(chr(10)) + 1}: byte 0x{byte:02x} is not {encoding} text; save the file as UTF-8"


def _reader(text: str, separator: str, strict: bool) -> Iterator[list[str]]:
    lines: Iterator[str] = io.StringIO(text, newline="")
    if separator == " ":  # runs of blanks and tabs separate; those at either end of a line do not
        lines = (line.replace("\t", " ").strip(" \r\n") + "\n" for line in lines)
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)


def _sniff(text: str) -> str:
    """The separator that cuts the first lines into the same number of fields, more than one; else the comma."""
    lines = io.StringIO(text[:SAMPLE_CHARACTERS], newline="")
    sample = "".join(line for _, line in zip(range(SAMPLE_LINES), lines, strict=False))
    best, best_share = ",", 0.0
    for separator in SEPARATORS:
        try:
            counts = Counter(len(row) for row in _reader(sample, separator, strict=False) if row)
        except csv.Error:
            continue
        fields, rows = max(counts.items(), key=lambda item: item[1], default=(1, 0))
        share = rows / max(counts.total(), 1)
        if fields > 1 and share > best_share:
            best, best_share = separator, share
    return best


def _parse(path: Path, text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    """Rows of fields without the blank ones, and the line at which each begins."""
    csv.field_size_limit(MAX_BYTES)  # the file's own size is limited already
    reader = _reader(text, separator, strict=True)
    rows, lines, begin = [], [], 1
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                rows.append(row)
                lines.append(begin)
            begin = reader.line_num + 1  # type: ignore[attr-defined]
    except csv.Error as error:
        if "expected after" in str(error):
            raise DataError(
                f"{path}, line {begin}: text follows a closing quote; double the quotes inside a quoted field"
            ) from None
        raise DataError(f"{path}, line {begin}: a quote that opens here is never closed; close or remove it") from None
    return rows, lines


def _refuse_ragged(path: Path, rows: list[list[str]], lines: list[int], separator: str) -> None:
    counts = Counter(map(len, rows))
    if len(counts) == 1:
        return
    expected = max(counts, key=lambda fields: (counts[fields], fields == len(rows[0])))
    for row, line in zip(rows, lines, strict=True):
        if len(row) != expected:
            raise DataError(
                f"{path}, line {line}: expected {expected} fields, found {len(row)} (separated by"
                f" {SEPARATORS[separator]}); correct or remove this line"
            )


def _has_header(rows: list[list[str]], known: Collection[str], prefer_rows: bool) -> bool:
    """Names in the first row: known ones, or texts above numbers, or texts that do not come again below."""
    first = [field.strip() for field in rows[0]]
    if any(name in known for name in first):
        return True
    if not any(first) or any(map(is_number, first)):
        return False
    columns = list(zip(*([value.strip() for value in row] for row in rows[1:SAMPLE_LINES]), strict=True))
    for values in columns:
        filled = [value for value in values if value]
        if filled and sum(map(is_number, filled)) > len(filled) / 2:
            return True
    return not prefer_rows and not any(name and name in values for name, values in zip(first, columns, strict=False))


def _distinct(fields: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """A name for each column: empty ones are numbered, repeated ones get a suffix."""
    taken: dict[str, int] = {}  # name -> how often it was wanted
    notes: list[str] = []
    for i, written in enumerate(fields):
        name = wanted = " ".join(written.split()) or f"column_{i}"
        while name in taken:
            taken[wanted] += 1
            name = f"{wanted}_{taken[wanted]}"
        taken[name] = 1
        if name != wanted:
            notes.append(f"a second column named '{wanted}' is called '{name}'")
    return tuple(taken), notes


def _decimal_points(names: tuple[str, ...], columns: tuple[list[str], ...]) -> tuple[tuple[list[str], ...], list[str]]:
    """Replace decimal commas in the columns where every comma is one."""
    done, notes = [], []
    for name, column in zip(names, columns, strict=True):
        with_comma = [value for value in column if "," in value]
        if with_comma and all(map(DECIMAL_COMMA.fullmatch, with_comma)):
            column = [value.replace(",", ".") for value in column]
            notes.append(f"column '{name}' is written with decimal commas")
        done.append(column)
    return tuple(done), notes

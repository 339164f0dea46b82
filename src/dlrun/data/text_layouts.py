"""Texts with labels, in whichever of the usual layouts they come; the layout is recognised and told.

A folder of class folders with a text in each file; a folder with a file for each class and a text in each line; lines
of a label and a text; or a table with a column of texts and a column of labels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrun.data.csv_columns import find_column
from dlrun.data.csv_file import Table, read_table
from dlrun.data.text_file import TextFile, missing
from dlrun.errors import DataError

TEXT_NAMES = (
    "text", "sentence", "review", "content", "message", "tweet", "document", "phrase", "comment", "question", "title",
    "name", "body", "sms",
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "polarity", "language", "topic", "y")
PARTS = frozenset(("train", "training", "dev", "val", "valid", "validation", "test"))
BESIDE = ("readme", "license", "licence", "copying", "sha256sums", "md5sums", "changelog")  # not data themselves
TABLES = frozenset((".csv", ".tsv", ".tab"))
LABELLED_LINE = re.compile(r"([^\s,;|\"]+)\s+(\S.*)")
MOST_LABELS = 200


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; None finds out."""

    text: str | int | None = None
    label: str | int | None = None
    header: bool | None = None


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels.

    Attributes:
        texts: without blanks around them, none of them empty.
        labels: one for each text.
        notes: the layout that was found, and what was left out.
        digest: SHA-256 of everything that was read.
        column: the name of the texts' column, where they come from a table.
    """

    texts: list[str]
    labels: list[str]
    notes: tuple[str, ...]
    digest: str
    column: str | None = None


def read_labelled(path: Path, columns: Columns) -> Labelled:
    """Read texts and labels.

    Raises:
        DataError: the path is missing, binary or empty, or no layout fits.
        ConfigError: a column that the table has not.
    """
    if not path.exists():
        raise DataError(missing(path))
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() not in TABLES and columns == Columns():
        file = TextFile(path)
        if (pairs := label_lines(file.text)) is not None:
            note = f"{path.name}: lines of a label and a text"
            return _labelled(pairs, (note, *file.note), (file.digest,))
        try:
            return _table(path, columns)
        except DataError as error:
            raise DataError(
                f"{path}: no labels are found in it, since its lines do not begin with a few labels that come again, "
                f"and as a table it cannot be read either: {error}"
            ) from None
    return _table(path, columns)


def label_lines(text: str) -> list[tuple[str, str]] | None:
    """(label, text) of each line; None where the lines do not begin with a few labels that come again and again."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    matches = [LABELLED_LINE.fullmatch(line) for line in lines]
    pairs = [(found[1], found[2]) for found in matches if found]
    different = len({label for label, _ in pairs})
    if len(pairs) < len(lines) or not 2 <= different <= min(MOST_LABELS, len(lines) // 2):
        return None
    return pairs


def _labelled(
    pairs: Iterable[tuple[str, str]], notes: Sequence[str], digests: Sequence[str], column: str | None = None
) -> Labelled:
    """Leave out what has no label or no text."""
    every = [(label.strip(), text.strip()) for label, text in pairs]
    kept = [(label, text) for label, text in every if label and text]
    if without := len(every) - len(kept):
        notes = [*notes, f"{without:,} examples without a text or a label are left out"]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return Labelled([text for _, text in kept], [label for label, _ in kept], tuple(notes), digest, column)


def _folder(path: Path) -> Labelled:
    """A folder of class folders, or of one file for each class; a lone folder within is gone into."""
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith((".", "__")))
    folders = [entry for entry in inside if entry.is_dir()]
    files = [entry for entry in inside if entry.is_file() and not entry.name.lower().startswith(BESIDE)]
    if len(folders) == 1 and not files:
        return _folder(folders[0])
    if len(folders) >= 2:
        _refuse_parts(path, folders, [folder.name for folder in folders])
        return _class_folders(path, folders)
    if len(files) < 2:
        raise DataError(
            f"{path} has no classes: give a folder of class folders, a folder with one file for each class, or a file "
            "of labels and texts: data.path=FILE"
        )
    names = class_names(files)
    _refuse_parts(path, files, names)
    return _class_files(path, files, names)


def class_names(files: Sequence[Path]) -> list[str]:
    """What tells the files apart: their names without the ending, or the ending (reviews.pos, reviews.neg)."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [file.suffix.removeprefix(".") or file.name for file in files]


def _refuse_parts(path: Path, entries: Sequence[Path], names: Sequence[str]) -> None:
    """Train and test parts are not classes."""
    if not all(name.lower() in PARTS for name in names):
        return
    place = {name.lower(): entry for name, entry in zip(names, entries, strict=True)}
    keys = {"path": ("train", "training"), "val_path": ("dev", "val", "valid", "validation"), "test_path": ("test",)}
    found = [f"data.{key}={place[name]}" for key, few in keys.items() for name in few if name in place]
    raise DataError(f"{path} holds the parts of a data set, not its classes; use {' '.join(found)}")


def _class_folders(path: Path, folders: Sequence[Path]) -> Labelled:
    pairs, digests, latin = [], [], 0
    for folder in folders:
        for entry in sorted(folder.iterdir()):
            if entry.is_file() and not entry.name.startswith("."):
                file = TextFile(entry)
                pairs.append((folder.name, " ".join(file.text.split())))
                digests.append(file.digest)
                latin += bool(file.note)
    if not pairs:
        raise DataError(f"{path} has {len(folders)} folders but no text in them; give one with a file for each text")
    notes = [f"{path.name}: {len(folders)} class folders, one text a file"]
    notes += [f"{latin:,} files are not UTF-8 and were read as latin-1 (Windows-1252)"] if latin else []
    return _labelled(pairs, notes, digests)


def _class_files(path: Path, paths: Sequence[Path], names: Sequence[str]) -> Labelled:
    files = [TextFile(file) for file in paths]
    pairs = ((name, line) for name, file in zip(names, files, strict=True) for line in _lines(file.text))
    notes = [f"{path.name}: {len(files)} files, one for each class, one text a line"]
    return _labelled(pairs, notes + [note for file in files for note in file.note], [file.digest for file in files])


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _table(path: Path, columns: Columns) -> Labelled:
    table = read_text_table(path, columns)
    if len(table.names) < 2:
        raise DataError(
            f"{path} has texts but no labels: expected lines of a label and a text, or a table with a column of each"
        )
    given = None if columns.text is None else find_column(table, columns.text, "data.text")
    label = _choose(table, columns.label, LABEL_NAMES, _fewest_values, given)
    text = _choose(table, None, TEXT_NAMES, longest, label) if given is None else given
    if text == label:
        raise DataError(f"{path}: column '{table.names[text]}' cannot be both data.text and data.label; name another")
    chosen = f"texts in column '{table.names[text]}', labels in '{table.names[label]}'"
    note = f"{path.name}: a table, {chosen} (data.text= and data.label= choose others)"
    pairs = zip(table.columns[label], table.columns[text], strict=True)
    return _labelled(pairs, (note, *table.notes), (table.digest,), table.names[text] if table.header else None)


def read_text_table(path: Path, columns: Columns, prefer_rows: bool = False) -> Table:
    """A table of texts: separated by tabs as they are (quotes are part of the text), else as any table.

    Raises:
        DataError: see ``read_table``.
    """
    given = [name for name in (columns.text, columns.label) if isinstance(name, str)]
    file = TextFile(path)
    lines = [(number, line) for number, line in enumerate(file.text.split("\n"), 1) if line.strip()]
    rows = [line.split("\t") for _, line in lines]
    if len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return read_table(path, columns.header, (*given, *TEXT_NAMES, *LABEL_NAMES), prefer_rows)
    rows = [[_unquoted(value.strip()) for value in row] for row in rows]
    known = {name.lower() for name in (*given, *TEXT_NAMES, *LABEL_NAMES)}
    header = columns.header
    if header is None:
        header = any(name.lower() in known for name in rows[0])
    names = tuple(rows.pop(0)) if header else tuple(f"column_{i}" for i in range(len(rows[0])))
    if not rows:
        raise DataError(f"{path} has only a header, no rows (if its one line is a row, add data.header=false)")
    numbers = [number for number, _ in lines][len(lines) - len(rows) :]
    return Table(path, names, tuple(map(list, zip(*rows, strict=True))), numbers, header, file.note, file.digest)


def _unquoted(value: str) -> str:
    inner = value[1:-1]
    quoted = len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else value


def _choose(
    table: Table,
    wanted: str | int | None,
    usual: Sequence[str],
    judge: Callable[[Table, list[int]], int],
    taken: int | None,
) -> int:
    """The column of labels that the user names, or one of the usual names, or what its values look like."""
    if wanted is not None:
        return find_column(table, wanted, "data.label")
    free = [place for place in range(len(table.names)) if place != taken]
    named = {table.names[i].lower(): i for i in reversed(free)}
    return next((named[name] for name in usual if name in named), judge(table, free))


def _fewest_values(table: Table, places: list[int]) -> int:
    """Labels come again and again; a column of one value tells nothing."""
    different = {i: len(set(table.columns[i])) for i in places}
    return min(places, key=lambda i: (different[i] < 2, different[i]))


def longest(table: Table, places: list[int]) -> int:
    """Texts are longer than anything beside them."""
    return max(places, key=lambda i: sum(map(len, table.columns[i])))

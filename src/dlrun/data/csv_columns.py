"""Which columns of an unknown table become inputs, and how: numbers, categories, or dropped with a note.

Whether a column holds numbers is asked of every row; everything else is learnt from the training rows alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrun.data.columns import MISSING, CategoryColumn, Column, Floats, NumberColumn
from dlrun.data.csv_file import Table
from dlrun.data.tabular import read_numbers, shorten
from dlrun.errors import DataError, nearest

FEW_BAD = 0.1  # a column with fewer texts than this among its numbers is one of numbers, and the texts are mistakes
FREE_TEXT = 20  # distinct values from which a text column may be free text or a name
ID_NAME = re.compile(
    r"(.*[_\-. ])?(id|uid|uuid|guid|index|idx|row|rownames|row_number|rownum)|unnamed.*|no\.?|nr\.?", re.I
)
CAMEL_ID = re.compile(r".*[a-z](Id|ID)")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """The user's word on single columns, as positions."""

    dropped: frozenset[int]
    categorical: frozenset[int]
    numeric: frozenset[int]
    max_categories: int


def find_column(table: Table, wanted: str | int, key: str) -> int:
    """The position of a column given by name or index (-1 the last).

    Raises:
        DataError: there is no such column; names the nearest.
    """
    if str(wanted) in table.names:
        return table.names.index(str(wanted))
    if isinstance(wanted, int):
        if -len(table.names) <= wanted < len(table.names):
            return wanted % len(table.names)
        raise DataError(
            f"{table.path} has {len(table.names)} columns, so {key}={wanted} is none of them; indices run from 0 to"
            f" {len(table.names) - 1}, and -1 is the last"
        )
    close = nearest(wanted, table.names)
    there = f"did you mean {key}={close}?" if close else f"it has: {', '.join(map(shorten, table.names[:30]))}"
    headless = "" if table.header else " (its first line was taken for a row; data.header=true takes it for names)"
    raise DataError(f"{table.path} has no column '{wanted}'{headless}; {there}")


def fit_columns(
    table: Table, targets: Sequence[int], train: Rows, choice: Choice
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Fit an encoder to each useful column.

    Args:
        table: all rows.
        targets: positions of the columns to predict, which are no inputs.
        train: the rows to learn from, ascending.
        choice: the user's word.

    Returns:
        The encoders, in the table's order, and one sentence for each decision.

    Raises:
        DataError: a column of numbers holds a few texts (with file, line and column), or no column is left.
    """
    fitted: list[Column] = []
    spare: list[Column] = []  # running numbers, taken only when there is nothing else to learn from
    notes: list[str] = []
    for place, name in enumerate(table.names):
        if place in targets or place in choice.dropped:
            continue
        fit = _fit_numbers if _is_numeric(table, place, choice) else _fit_categories
        column, reason = fit(table, place, train, choice)
        if column is None:
            notes.append(f"column '{name}' is dropped: {reason}")
        elif reason:
            spare.append(column)
        else:
            fitted.append(column)
            notes += _describe(table, place, column)
    if fitted:
        notes += [f"column '{column.name}' is dropped: it numbers the rows" for column in spare]
    if not fitted and not spare:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{table.path} has no column to learn from{why}; keep one with data.categorical=[NAME]")
    return tuple(fitted or spare), tuple(notes)


def _is_numeric(table: Table, place: int, choice: Choice) -> bool:
    if place in choice.categorical:
        return False
    if place in choice.numeric:
        return True
    return holds_numbers(table, place, f"data.categorical=[{table.names[place]}]")


def holds_numbers(table: Table, place: int, remedy: str) -> bool:
    """Whether a column is one of numbers.

    Raises:
        DataError: nearly all its values are numbers but a few are not; ``remedy`` is the override that takes them.
    """
    texts = table.columns[place]
    numbers = table.numbers(place)
    bad = len(numbers.bad)
    good = len(texts) - int(np.isnan(numbers.values).sum())
    if good >= 4 and 0 < bad <= max(1, FEW_BAD * (good + bad)):
        row = numbers.bad[0]
        raise DataError(
            f"{table.cell(row, place)}: '{shorten(texts[row])}' is not a number, unlike {good:,} other values;"
            f" correct it, leave it empty, or take the column as categories with '{remedy}'"
        )
    return bad == 0 and good > 0


def _fit_numbers(table: Table, place: int, train: Rows, choice: Choice) -> tuple[Column | None, str]:
    """An encoder; or None and why not; or an encoder and why it is a poor one."""
    name, values = table.names[place], read_numbers(table, place)[train]
    column = NumberColumn.fit(name, values, may_log=True)
    if column is None:
        return None, "it is constant in the training part"
    if place not in choice.numeric and _numbers_rows(name, values, train):
        return column, "it numbers the rows"
    return column, ""


def _fit_categories(table: Table, place: int, train: Rows, choice: Choice) -> tuple[Column | None, str]:
    texts = [table.columns[place][row] for row in train]
    counts = Counter(text for text in texts if text not in MISSING)
    if not counts:
        return None, "it is empty in the training part"
    once = sum(count == 1 for count in counts.values())
    if place not in choice.categorical and len(counts) > FREE_TEXT and once > counts.total() / 2:
        return None, "most of its texts occur only once, so it tells rows apart and not classes of rows"
    column = CategoryColumn.fit(table.names[place], texts, choice.max_categories)
    return column, "" if column else "it is constant in the training part"


def _numbers_rows(name: str, values: Floats, rows: Rows) -> bool:
    """A running number (row + constant, starting at 0 or 1), or distinct whole numbers in a column named as an id."""
    if np.isnan(values).any() or (values != np.floor(values)).any() or len(values) < 3:
        return False
    first = values[0] - rows[0]
    if first in (0.0, 1.0) and bool((values - rows == first).all()):
        return True
    named = ID_NAME.fullmatch(name) or CAMEL_ID.fullmatch(name)
    return bool(named) and len(np.unique(values)) == len(values)


def _describe(table: Table, place: int, column: Column) -> list[str]:
    """What a reader should know of an encoder that is used."""
    gaps = sum(text in MISSING for text in table.columns[place])
    if isinstance(column, NumberColumn):
        notes = [f"column '{column.name}': {gaps:,} gaps filled with the median {column.fill:g}"] if gaps else []
        return notes + ([f"column '{column.name}' is taken as log(1 + x): its tail is heavy"] if column.log else [])
    way = "a category of their own" if "" in column.categories else "taken like values never seen in training"
    notes = [f"column '{column.name}': {gaps:,} gaps are {way}"] if gaps else []
    if column.other:
        notes.append(f"column '{column.name}': all but the {len(column.categories)} most frequent values are 'other'")
    return notes

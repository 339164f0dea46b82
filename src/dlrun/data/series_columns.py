"""The values of a series: which columns they are, and their gaps, filled from the past alone.

Legend: N rows in the order of time, F columns of values, the D targets first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlrun.data.columns import LARGEST, Floats
from dlrun.data.csv_columns import FEW_BAD, find_column
from dlrun.data.csv_file import Table
from dlrun.data.series_dates import Rows
from dlrun.data.tabular import shorten
from dlrun.errors import ConfigError, DataError

Wanted = str | int | Sequence[str | int] | None


def choose_columns(
    table: Table, times: Sequence[int], target: Wanted, inputs: Wanted
) -> tuple[list[int], int, tuple[str, ...]]:
    """The columns of values, targets first, each in the table's order; how many are targets; and what was left out.

    Without ``inputs`` all columns of numbers are; without ``target`` all inputs are. The past of a target is always an
    input.

    Raises:
        ConfigError: a column is named twice, or the one that tells the time is named.
        DataError: there is no such column, it holds a text or nothing, or no column of numbers is there.
    """
    targets, seen = _named(table, times, target, "target"), _named(table, times, inputs, "inputs")
    notes: list[str] = []
    if seen is None:
        seen, notes = _all_numeric(table, [*times, *(targets or [])])
    targets = seen if targets is None else targets
    others = [place for place in seen if place not in targets]
    if not targets:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{table.path} has no column of numbers to forecast{why}; name one with data.target=COLUMN")
    for place in (*targets, *others):
        refuse_texts(table, place)
    return [*targets, *others], len(targets), tuple(notes)


def _named(table: Table, times: Sequence[int], wanted: Wanted, key: str) -> list[int] | None:
    if wanted is None:
        return None
    names = [wanted] if isinstance(wanted, str | int) else list(wanted)
    places = [find_column(table, name, f"data.{key}") for name in names]
    if not places or len(set(places)) < len(places):
        raise ConfigError(f"data.{key}={wanted} must name each column once, or be null for all of numbers")
    for place in places:
        if place in times:
            raise ConfigError(
                f"data.{key}: column '{table.names[place]}' tells the time, so it is no value; name another, or the"
                " right column of dates with data.date=COLUMN"
            )
    return sorted(places)


def _all_numeric(table: Table, taken: Sequence[int]) -> tuple[list[int], list[str]]:
    """The columns of numbers beside those taken, and a note for each that is none."""
    found, notes = [], []
    for place, name in enumerate(table.names):
        if place in taken:
            continue
        numbers = table.numbers(place)
        good = len(table) - int(np.isnan(numbers.values).sum())
        if not good:
            notes.append(f"column '{name}' is left out: it holds no number")
        elif len(numbers.bad) > FEW_BAD * (good + len(numbers.bad)):
            notes.append(f"column '{name}' is left out: it holds texts")
        else:
            found.append(place)
    return found, notes


def refuse_texts(table: Table, place: int) -> None:
    """Refuse a column of values that holds a text, nothing at all, or a number beyond 1e30.

    Raises:
        DataError: naming file, line and column.
    """
    numbers = table.numbers(place)
    if numbers.bad:
        row = numbers.bad[0]
        raise DataError(
            f"{table.cell(row, place)}: '{shorten(table.columns[place][row])}' is not a number; correct it or leave it"
            " empty (a gap takes the value before it)"
        )
    if np.isnan(numbers.values).all():
        raise DataError(f"{table.path}: column '{table.names[place]}' is empty, so there is nothing to forecast")
    with np.errstate(invalid="ignore"):
        extreme = np.flatnonzero(np.abs(numbers.values) > LARGEST)
    if len(extreme):
        row = int(extreme[0])
        raise DataError(
            f"{table.cell(row, place)}: '{shorten(table.columns[place][row])}' is beyond {LARGEST:g}, the largest"
            " number taken; correct it or leave it empty"
        )


def read_values(
    table: Table, places: Sequence[int], rows: Rows, to_the_end: bool = False
) -> tuple[Floats, tuple[str, ...]]:
    """The values (N, F) in the order of ``rows``, with every gap filled by the last value before it.

    The first rows, before every column has had a value, cannot be filled from the past and are left out. So are the
    last ones, after a column has ended, unless ``to_the_end``: they hold no truth to measure a forecast by. The second
    result is one sentence for each thing done.

    Raises:
        DataError: a column has no value in these rows.
    """
    raw = np.stack([table.numbers(place).values for place in places], axis=1)[rows]
    known = ~np.isnan(raw)
    for i in np.flatnonzero(~known.any(axis=0)).tolist():  # its only values stood in rows whose date came again
        raise DataError(f"{table.path}: column '{table.names[places[i]]}' is empty, so there is nothing to forecast")
    late = int(known.argmax(axis=0).max())  # the first row of the column that begins last
    notes = []
    if late:
        name = table.names[places[int(known.argmax(axis=0).argmax())]]
        notes.append(f"rows left out before column '{name}' begins: {late:,}")
    ended = int(known[::-1].argmax(axis=0).max())  # rows after the last value of the column that ends first
    if ended and not to_the_end:
        name = table.names[places[int(known[::-1].argmax(axis=0).argmax())]]
        notes.append(f"rows left out after column '{name}' ends: {ended:,}")
        raw, known = raw[:-ended], known[:-ended]
    newest = np.maximum.accumulate(np.where(known, np.arange(len(raw))[:, None], 0), axis=0)
    filled = np.take_along_axis(raw, newest, axis=0)[late:]
    for i, place in enumerate(places):
        if gaps := int((~known[late:, i]).sum()):
            runs = np.diff(np.flatnonzero(np.concatenate([[True], known[late:, i], [True]]))) - 1
            notes.append(
                f"column '{table.names[place]}': gaps filled with the value before: {gaps:,}, at most"
                f" {int(runs.max()):,} in a row"
            )
    return filled, tuple(notes)

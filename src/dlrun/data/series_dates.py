"""The dates of a series: the column that holds them, the way they are written, the order and the spacing they give.

Legend: N rows of the file, K rows of the series (one for each date).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from dlrun.data.columns import MISSING, Floats
from dlrun.data.csv_columns import find_column
from dlrun.data.csv_file import Table
from dlrun.data.tabular import shorten
from dlrun.errors import DataError

ISO = "ISO 8601"
DAYS = (
    "%Y-%m", "%Y/%m", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y",
    "%d/%m/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %Y", "%B %Y",
    "%b-%Y", "%b-%y", "%y-%b", "%m/%Y", "%Y%m",
)  # fmt: skip
CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p", " %H")
WAYS = tuple(day + clock for day in DAYS for clock in CLOCKS)
TIME_NAME = re.compile(
    r"(.*[_\-. ])?(date|datetime|time|timestamp|day|week|month|quarter|year|hour|minute|second|step|index|idx|id|t|no"
    r"|nr|row|rownames)\.?|unnamed.*",
    re.I,
)
TIME_OF_DAY = re.compile(r"\d{1,2}[:.]\d{2}([:.]\d{2})?")
SAMPLE = 60
MOST = 0.9  # of a column's texts are dates: it is one of dates, and the others are mistakes
REPEATED = 0.1  # of the rows have a date that another has too: several series in one file
MONTHS_DIFFER = 1.13  # 31 days over 28; a longest step beyond that multiple of the shortest is no even spacing
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400.0

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The rows of a series by time.

    Attributes:
        rows: (K,) rows of the table, the oldest first.
        places: columns that tell the time and are no values; none where the order of the lines is the time.
        dates: how the file writes each row's date, (K,); ``row 1``, ... where it has none.
        notes: what was found.
    """

    rows: Rows
    places: tuple[int, ...]
    dates: list[str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Clock:
    """A column's texts as times: (N,) seconds (or plain numbers), NaN where one is no time."""

    places: tuple[int, ...]
    texts: Sequence[str]
    times: Floats
    dated: bool


def read_order(table: Table, date: str | int | None) -> Order:
    """Sort the rows by the column of dates: the given one, the first that holds any, or none (the lines' own order).

    Raises:
        DataError: the given column holds no dates, one text among dates is none, or dates stand for many rows each.
    """
    clock = _given(table, find_column(table, date, "data.date")) if date is not None else _found(table)
    if clock is None:
        note = "no column of dates was found: the lines are taken in their order (data.date=COLUMN names one)"
        return Order(np.arange(len(table)), (), [f"row {i + 1}" for i in range(len(table))], (note,))
    name = " + ".join(f"'{table.names[place]}'" for place in clock.places)
    _refuse_bad(table, clock)
    rows = np.argsort(clock.times, kind="stable")
    times = clock.times[rows]
    last = np.append(times[1:] != times[:-1], True)  # of the rows with one date
    repeated = len(rows) - int(last.sum())
    if repeated > REPEATED * len(rows):
        first = int(np.flatnonzero(~last)[0])
        raise DataError(
            f"{table.path}, lines {table.lines[rows[first]]} and {table.lines[rows[first + 1]]}: the same date"
            f" '{shorten(clock.texts[rows[first]])}', and so on for {repeated:,} rows; this looks like several series"
            " in one file: keep one of them"
        )
    notes = [f"time: column {name}, {spacing(times[last], clock.dated)}"]
    if repeated:
        notes.append(f"rows that repeat a date: {repeated:,}; the last of each is kept")
    if (np.diff(clock.times) < 0).all() and len(rows) > 1:
        notes.append("the newest row stands first in the file: turned round")
    elif back := int((np.diff(clock.times) < 0).sum()):
        notes.append(f"rows out of order by date (steps back in time: {back:,}): sorted")
    kept = rows[last]
    return Order(kept, clock.places, [clock.texts[row] for row in kept], tuple(notes))


def spacing(times: Floats, dated: bool) -> str:
    """The step from row to row in words, and whether it is even; ``times`` (K,) ascend, in seconds where ``dated``."""
    steps = np.diff(times)
    if not len(steps):
        return "one row"
    usual, longest = float(np.median(steps)), float(steps.max())
    name = _length if dated else (lambda step: f"{step:g}")
    if longest <= MONTHS_DIFFER * float(steps.min()):
        return f"{name(usual)} apart"
    even = int((np.abs(steps - usual) <= (MONTHS_DIFFER - 1) * usual).sum())
    return (
        f"{name(usual)} apart, but not all: {len(steps) - even:,} of {len(steps):,} steps differ, the longest is"
        f" {name(longest)}; rows are taken as even steps"
    )


def _length(seconds: float) -> str:
    """``1 hour``, ``15 minutes``, ``1 month``."""
    for unit, size in (("year", 365.25 * DAY), ("month", 30.5 * DAY), ("week", 7 * DAY), ("day", DAY)):
        whole = round(seconds / size)
        if whole and abs(seconds - whole * size) <= 0.09 * size * (size > 7 * DAY):  # months and years differ
            return f"{whole} {unit}{'s' * (whole > 1)}"
    for unit, size in (("hour", 3600.0), ("minute", 60.0), ("second", 1.0)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}{'s' * (seconds > size)}"
    return f"{seconds:g} seconds"


def _given(table: Table, place: int) -> _Clock:
    clock = _dates(table, place) or _running_number(table, place)
    if clock is None:
        raise DataError(
            f"{table.cell(0, place)}: '{shorten(table.columns[place][0])}' is no date that is known; write dates as"
            " 2026-11-21 or 2026-11-21 18:30:00, or leave data.date out to take the lines in their order"
        )
    return clock


def _found(table: Table) -> _Clock | None:
    for place, name in enumerate(table.names):
        digits = not table.numbers(place).bad  # 20160701 is a date in the first column or under a telling name
        if (not digits or place == 0 or TIME_NAME.fullmatch(name)) and (clock := _dates(table, place)):
            return clock
    values = [place for place in range(len(table.names)) if not table.numbers(place).bad]
    for place in values if len(values) > 1 else []:
        named = TIME_NAME.fullmatch(table.names[place]) is not None
        clock = _running_number(table, place) if named or place == 0 else None
        if clock and (named or len(set(np.diff(clock.times).tolist())) == 1):
            return clock
    return None


def _running_number(table: Table, place: int) -> _Clock | None:
    """A column of numbers that only rise, or only fall: years, seconds, counted rows."""
    numbers = table.numbers(place)
    steps = np.diff(numbers.values)
    if numbers.bad or len(steps) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        return None
    return _Clock((place,), table.columns[place], numbers.values, dated=False)


def _dates(table: Table, place: int) -> _Clock | None:
    """A column of dates, with the times of day where a column of its own holds them."""
    days = _parsed(table.columns[place])
    if days is None:
        return None
    for other, texts in enumerate(table.columns):
        if other != place and all(map(TIME_OF_DAY.fullmatch, texts)):
            joined = [f"{day} {time.replace('.', ':')}" for day, time in zip(table.columns[place], texts, strict=True)]
            if (times := _parsed(joined)) is not None:
                return _Clock((place, other), joined, times, dated=True)
    return _Clock((place,), table.columns[place], days, dated=True)


def _parsed(texts: Sequence[str]) -> Floats | None:
    """Texts as seconds by the one way of writing that fits most of them; None when they are no dates.

    Where day and month could be either, the way that puts the rows in order is taken, and of two such the more even.
    """
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    fitting = [ISO] if _fits(sample, ISO) else [way for way in WAYS if _fits(sample, way)]
    read = [_seconds(texts, way) for way in fitting]
    if not read or np.isfinite(best := min(read, key=_disorder)).mean() < MOST:
        return None
    return best


def _fits(texts: Sequence[str], way: str) -> bool:
    return bool(np.isfinite(_seconds(texts, way)).mean() >= MOST)


def _disorder(times: Floats) -> tuple[int, int, float]:
    steps = np.diff(times[np.isfinite(times)])
    back, longest = min(int((steps < 0).sum()), int((steps > 0).sum())), float(np.abs(steps).max(initial=0.0))
    return int(np.isnan(times).sum()), back, longest


def _seconds(texts: Sequence[str], way: str) -> Floats:
    found = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        try:
            time = datetime.fromisoformat(text) if way == ISO else datetime.strptime(text, way)
        except ValueError:
            continue
        found[i] = ((time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH).total_seconds()
    return found


def _refuse_bad(table: Table, clock: _Clock) -> None:
    bad = np.flatnonzero(np.isnan(clock.times))
    if len(bad):
        row = int(bad[0])
        text = table.columns[clock.places[0]][row]
        what = (
            "the date is missing" if text in MISSING else f"'{shorten(clock.texts[row])}' is not written as the others"
        )
        raise DataError(f"{table.cell(row, clock.places[0])}: {what}; correct or remove this line")

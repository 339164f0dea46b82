"""The column of dates: found, read in its way of writing, put in order; what is no date is refused with its line."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dlrun.data.csv_file import read_table
from dlrun.data.series_dates import Order, read_order, spacing
from dlrun.errors import DataError

START = datetime(2020, 1, 30)


def order(folder: Path, lines: list[str], header: str = "when,value", date: str | int | None = None) -> Order:
    path = folder / "series.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return read_order(read_table(path), date)


def days(way: str, n: int = 20) -> list[str]:
    return [f'"{(START + timedelta(days=i)).strftime(way)}",{i * i % 7}.5' for i in range(n)]


@pytest.mark.parametrize(
    "way",
    [
        "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d", "%d.%m.%Y",
        "%d.%m.%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y", "%d/%m/%Y %H:%M:%S", "%b %d, %Y", "%d %B %Y",
        "%d-%b-%y", "%Y%m%d", "%m/%d/%y %I:%M %p", "%Y-%m-%d %H",
    ],
)  # fmt: skip
def test_every_usual_way_to_write_a_date_is_read(tmp_path: Path, way: str) -> None:
    """Twenty days over the end of a month: only the right order of day and month leaves them a day apart."""
    found = order(tmp_path, days(way))
    assert found.rows.tolist() == list(range(20))
    assert found.places == (0,)
    assert found.notes == ("time: column 'when', 1 day apart",)
    assert found.dates[0] == START.strftime(way)


@pytest.mark.parametrize(("way", "step"), [("%Y-%m", "1 month"), ("%b %Y", "1 month"), ("%Y", "1")])
def test_months_and_years(tmp_path: Path, way: str, step: str) -> None:
    months = 12 if way == "%Y" else 1
    texts = [datetime(1990 + i * months // 12, 1 + i * months % 12, 1).strftime(way) for i in range(30)]
    found = order(tmp_path, [f"{text},{i % 5}" for i, text in enumerate(texts)], header="year,value")
    assert found.notes == (f"time: column 'year', {step} apart",)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(900, "15 minutes"), (3600, "1 hour"), (30, "30 seconds"), (0.5, "0.5 seconds"), (604_800, "1 week")],
)  # fmt: skip
def test_the_spacing_in_words(seconds: float, words: str) -> None:
    assert spacing(np.arange(5) * float(seconds), dated=True) == f"{words} apart"


def test_an_uneven_spacing_is_said() -> None:
    times = np.array([0.0, 1, 2, 5, 6]) * 86_400
    assert spacing(times, dated=True) == (
        "1 day apart, but not all: 1 of 4 steps differ, the longest is 3 days; rows are taken as even steps"
    )
    assert spacing(np.array([7.0]), dated=True) == "one row"


def test_rows_are_sorted_and_it_is_said(tmp_path: Path) -> None:
    lines = days("%Y-%m-%d", 6)
    found = order(tmp_path, lines[3:] + lines[:3])
    assert found.rows.tolist() == [3, 4, 5, 0, 1, 2]
    assert found.dates == [(START + timedelta(days=i)).strftime("%Y-%m-%d") for i in range(6)]
    assert "rows out of order by date (steps back in time: 1): sorted" in found.notes
    turned = order(tmp_path, lines[::-1])
    assert turned.rows.tolist() == [5, 4, 3, 2, 1, 0]
    assert "the newest row stands first in the file: turned round" in turned.notes


def test_the_last_row_of_a_repeated_date_is_kept(tmp_path: Path) -> None:
    lines = days("%Y-%m-%d", 30)
    found = order(tmp_path, [*lines[:11], lines[10], *lines[11:]])
    assert found.rows.tolist() == [*range(10), *range(11, 31)]
    assert "rows that repeat a date: 1; the last of each is kept" in found.notes


def test_several_series_in_one_file_are_refused(tmp_path: Path) -> None:
    lines = days("%Y-%m-%d", 10)
    with pytest.raises(DataError, match=r"series.csv, lines 2 and 12: the same date '2020-01-30'.*several series"):
        order(tmp_path, lines + lines)


def test_a_time_of_day_in_a_column_of_its_own(tmp_path: Path) -> None:
    lines = [f"{3 + i // 24:02}/01/2024;{i % 24:02}.00.00;{i % 7}" for i in range(48)]
    found = order(tmp_path, lines, header="Date;Time;CO")
    assert found.places == (0, 1)
    assert found.notes == ("time: column 'Date' + 'Time', 1 hour apart",)
    assert found.dates[1] == "03/01/2024 01:00:00"


def test_without_dates_the_lines_are_in_their_order(tmp_path: Path) -> None:
    found = order(tmp_path, [f"{i * 3 % 7},{i % 4}" for i in range(12)], header="a,b")
    assert found.rows.tolist() == list(range(12))
    assert (found.places, found.dates[:2]) == ((), ["row 1", "row 2"])
    assert "no column of dates was found" in found.notes[0]


def test_a_number_that_counts_the_rows_is_the_time_and_a_single_rising_column_is_a_value(tmp_path: Path) -> None:
    assert order(tmp_path, [f"{i},{i % 4}" for i in range(12)], header="a,b").places == (0,)
    assert order(tmp_path, [f"{i % 4},{i * i}" for i in range(12)], header="b,timestamp").places == (1,)
    assert order(tmp_path, [f"{i % 4},{i * i}" for i in range(12)], header="b,sales").places == ()
    assert order(tmp_path, [str(i) for i in range(12)], header="a").places == ()


def test_the_given_column_is_taken(tmp_path: Path) -> None:
    lines = [f"2020-01-{i + 1:02},2021-02-{28 - i:02},{i % 3}" for i in range(20)]
    assert order(tmp_path, lines, header="a,b,c").places == (0,)
    found = order(tmp_path, lines, header="a,b,c", date="b")
    assert (found.places, found.rows[0]) == ((1,), 19)
    with pytest.raises(DataError, match="line 2, column 'c': '0' is no date that is known; write dates as 2026-11-21"):
        order(tmp_path, lines, header="a,b,c", date="c")
    with pytest.raises(DataError, match="no column 'bb'"):
        order(tmp_path, lines, header="a,b,c", date="bb")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [("soon", "'soon' is not written as the others"), ("", "the date is missing"), ("2020-02-31", "not written")],
)  # fmt: skip
def test_a_text_among_dates_is_refused_with_its_line(tmp_path: Path, broken: str, sentence: str) -> None:
    lines = days("%Y-%m-%d", 30)
    with pytest.raises(DataError, match=f"series.csv, line 9, column 'when': .*{sentence}"):
        order(tmp_path, [*lines[:7], f"{broken},1", *lines[8:]])

"""Which columns of a series are values, and how their gaps are filled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrun.data.csv_file import Table, read_table
from dlrun.data.series_columns import choose_columns, read_values
from dlrun.errors import ConfigError, DataError


def table(folder: Path, lines: list[str], header: str = "t,a,b,c") -> Table:
    path = folder / "series.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return read_table(path)


def test_all_columns_of_numbers_are_targets_and_inputs(tmp_path: Path) -> None:
    """A column of texts and one that is empty are left out; one mistake among many numbers is refused."""
    rows = [f"{i},{i}.5,{'high' if i % 2 else 'low'}," for i in range(20)]
    places, targets, notes = choose_columns(table(tmp_path, rows), [0], None, None)
    assert (places, targets) == ([1], 1)
    assert notes == ("column 'b' is left out: it holds no number", "column 'c' is left out: it holds no number")
    mixed = [f"{i},{i}.5,{'high' if i % 2 else i},1" for i in range(20)]
    assert choose_columns(table(tmp_path, mixed), [0], None, None)[2] == ("column 'b' is left out: it holds texts",)
    mistake = [*rows[:9], "9,nine,low,", *rows[10:]]
    with pytest.raises(DataError, match="line 11, column 'a': 'nine' is not a number"):
        choose_columns(table(tmp_path, mistake), [0], None, None)


def test_targets_come_first_in_the_table_s_order(tmp_path: Path) -> None:
    data = table(tmp_path, ["1,2,3,4", "2,3,5,1"])
    assert choose_columns(data, [0], ["c", "b"], None)[:2] == ([2, 3, 1], 2)
    assert choose_columns(data, [0], -1, "a")[:2] == ([3, 1], 1)
    assert choose_columns(data, [0], None, ["c", "a"])[:2] == ([1, 3], 2)
    with pytest.raises(ConfigError, match="column 't' tells the time"):
        choose_columns(data, [0], "t", None)


def test_gaps_are_filled_from_the_past_in_the_order_of_time(tmp_path: Path) -> None:
    data = table(tmp_path, ["1,,1,1", "2,5,,1", "3,,,1", "4,7,4,1"])
    both, _ = read_values(data, [1, 2], np.arange(4))
    assert both.tolist() == [[5, 1], [5, 1], [7, 4]], "also from a row that is left out"
    values, notes = read_values(data, [1], np.arange(4))
    assert values.tolist() == [[5], [5], [7]]
    assert notes == (
        "rows left out before column 'a' begins: 1",
        "column 'a': gaps filled with the value before: 1, at most 1 in a row",
    )
    backward, said = read_values(data, [1], np.arange(4)[::-1])
    assert backward.tolist() == [[7], [7], [5]], "what comes after the last value is no truth to be measured by"
    assert said[0] == "rows left out after column 'a' ends: 1"
    with pytest.raises(DataError, match="column 'a' is empty"):
        read_values(data, [1], np.array([0, 2]))

import json

import numpy as np
import pytest

from dlrun.data.columns import CategoryColumn, NumberColumn, is_number, restore_column, to_numbers


def test_text_to_numbers():
    numbers = to_numbers(["1", "-2.5e3", "", "?", "N/A", "nan", "-", "abc", "1_000", "+inf"])
    assert numbers.bad == [7, 8]
    assert numbers.values[:2].tolist() == [1.0, -2500.0]
    assert np.isnan(numbers.values[2:9]).all()
    assert numbers.values[9] == np.inf
    assert [is_number(text) for text in ("1e3", "inf", "1_0", "x", "nan")] == [True, False, False, False, False]


def test_number_column_is_standardised_and_filled_with_the_median():
    column = NumberColumn.fit("n", np.array([1.0, 2.0, 9.0, np.nan]))
    assert column.fill == 2.0
    inputs = column.encode(np.array([1.0, 2.0, 9.0, np.nan]))
    assert inputs.dtype == np.float32
    assert inputs.shape == (4, 1)
    assert abs(inputs.mean()) < 1e-6
    assert abs(inputs.std() - 1) < 1e-6
    assert inputs[3] == inputs[1]


def test_heavy_tail_takes_the_logarithm_only_where_that_helps():
    rng = np.random.default_rng(0)
    tail = np.exp(2 * rng.standard_normal(500))
    assert NumberColumn.fit("n", tail, may_log=True).log
    assert not NumberColumn.fit("n", tail).log
    assert not NumberColumn.fit("n", tail - 1, may_log=True).log  # negative values
    assert not NumberColumn.fit("n", tail / 1e6, may_log=True).log  # log(1 + x) is x there
    assert not NumberColumn.fit("n", rng.uniform(size=500), may_log=True).log
    encoded = NumberColumn.fit("n", tail, may_log=True).encode(np.array([-5.0, 0.0]))
    assert encoded[0] == encoded[1]


def test_wild_values_are_cut():
    assert NumberColumn("n", mean=0.0, std=1e-30).encode(np.array([1e30, -1e30])).tolist() == [[100.0], [-100.0]]


def test_category_column():
    column = CategoryColumn.fit("c", ["b", "a", "b", "", "c"], most=2)
    assert column.features == ("c=b", "c=missing", "c=other")
    assert column.encode(["b", "?", "c", "never seen"]).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    full = CategoryColumn.fit("c", ["b", "a", "b"], most=32)
    assert full.features == ("c=b", "c=a")
    assert full.encode(["a", "never seen"]).tolist() == [[0, 1], [0, 0]]
    assert CategoryColumn.fit("c", ["a", "a"], most=32) is None


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [3.0, 3.0, np.nan], [1e20, 1e20 + 1e5]])
def test_column_without_variation_is_none(values):
    assert NumberColumn.fit("n", np.array(values)) is None


@pytest.mark.parametrize("column", [NumberColumn("n", 1.0, True, 2.0, 3.0), CategoryColumn("c", ("", "a"), True)])
def test_column_state_survives_json(column):
    assert restore_column(json.loads(json.dumps(column.state()))) == column

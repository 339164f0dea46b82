"""Windows of a series: parts in the order of time, scaled and filled from the past alone."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlrun.data import restore_preprocess
from dlrun.data.series import Series, SeriesPreprocess, part_rows
from dlrun.data.windows import Windows
from dlrun.errors import ConfigError, DataError, DlrunError

HEADER = "date,a,b,place"


def lines(n: int = 100) -> list[str]:
    """Column a counts the hours, b is ten times the sine of them."""
    return [f"2024-01-{1 + i // 24:02} {i % 24:02}:00:00,{i},{10 * np.sin(i):.6f},Ulm" for i in range(n)]


def write(folder: Path, rows: list[str], header: str = HEADER, name: str = "series.csv") -> str:
    path = folder / name
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return str(path)


def make(folder: Path, rows: list[str] | None = None, header: str = HEADER, **more: Any) -> Series:
    path = write(folder, lines() if rows is None else rows, header)
    return Series(path=path, **({"look_back": 6, "horizon": 4} | more))


def part(windows: Any) -> Windows:
    assert isinstance(windows, Windows)
    return windows


def everything(windows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return part(windows).gather(torch.arange(len(windows)))


def test_end_to_end(tmp_path: Path) -> None:
    data = make(tmp_path)
    facts, splits = data.facts(), data.load()
    assert splits.facts is facts
    assert (facts.kind, facts.task) == ("series", "forecasting")
    assert (facts.input_shape, facts.target_shape) == ((6, 2), (4, 2))
    assert facts.targets == facts.features == ("a", "b")
    # 70, 10 and 20 rows: 70 - 6 - 4 + 1 windows, then as many as rows ahead fit into the part
    assert facts.sizes == {"train": 61, "val": 7, "test": 17}
    assert facts.notes == ("time: column 'date', 1 hour apart", "column 'place' is left out: it holds no number")
    inputs, targets = everything(splits.train)
    assert inputs.shape == (61, 6, 2)
    assert targets.shape == (61, 4, 2)
    assert inputs.dtype == torch.float32


def test_a_window_is_followed_by_its_target_and_the_parts_by_one_another(tmp_path: Path) -> None:
    splits = make(tmp_path).load()
    (mean, deviation), _ = splits.facts.target_scales
    for name, first in (("train", 0), ("val", 64), ("test", 74)):  # validation and test look back into the part before
        inputs, targets = everything(getattr(splits, name))
        whole = torch.cat([inputs, targets], dim=1)[..., 0].double() * deviation + mean
        expected = torch.arange(first, first + len(whole))[:, None] + torch.arange(10)
        torch.testing.assert_close(whole, expected.double(), rtol=0, atol=1e-5)
    assert expected[-1, -1] == 99, "the last window ends with the last row"


def test_a_part_holds_no_row_of_a_later_one(tmp_path: Path) -> None:
    """What a task learns its baseline from is the training part's rows alone."""
    assert part(make(tmp_path).load().train).targets.shape == (70, 2)


def test_scaled_by_the_training_part_alone(tmp_path: Path) -> None:
    """Zero mean and unit population deviation, as scikit-learn's StandardScaler has it."""
    train = np.array([[i, round(10 * np.sin(i), 6)] for i in range(70)])
    mean, deviation = train.mean(0), np.sqrt(((train - train.mean(0)) ** 2).mean(0))
    splits = make(tmp_path).load()
    np.testing.assert_allclose(part(splits.train).values, (train - mean) / deviation, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(splits.facts.target_scales, np.stack([mean, deviation], 1), rtol=1e-12)
    changed = [line if i < 70 else line.replace(",", ",9", 1) for i, line in enumerate(lines())]
    assert make(tmp_path, changed).facts().target_scales == splits.facts.target_scales


def test_targets_stand_first_and_their_past_is_an_input(tmp_path: Path) -> None:
    splits = make(tmp_path, target="b").load()
    assert (splits.facts.targets, splits.facts.features) == (("b",), ("b", "a"))
    inputs, targets = everything(splits.train)
    assert (inputs.shape[-1], targets.shape[-1]) == (2, 1)
    assert torch.equal(targets[0, :, 0], inputs[4, 2:, 0])
    alone = make(tmp_path, target="b", inputs=["b"]).facts()
    other = make(tmp_path, target=["b"], inputs=["a"]).facts()
    assert (alone.features, other.features) == (("b",), ("b", "a"))


def test_gaps_take_the_value_before_them(tmp_path: Path) -> None:
    rows = lines()
    for i, text in ((10, ""), (11, "NaN"), (80, "NA")):
        time, _, b, place = rows[i].split(",")
        rows[i] = f"{time},{text},{b},{place}"
    splits = make(tmp_path, rows).load()
    (mean, deviation), _ = splits.facts.target_scales
    values = part(splits.train).values[:, 0].double() * deviation + mean
    torch.testing.assert_close(values[9:13], torch.tensor([9.0, 9, 9, 12], dtype=torch.float64), rtol=0, atol=1e-5)
    assert "column 'a': gaps filled with the value before: 3, at most 2 in a row" in splits.facts.notes


def test_rows_before_a_column_begins_are_left_out(tmp_path: Path) -> None:
    rows = [line if i > 4 else ",".join([line.split(",")[0], str(i), "", "Ulm"]) for i, line in enumerate(lines())]
    facts = make(tmp_path, rows).facts()
    assert "rows left out before column 'b' begins: 5" in facts.notes
    assert sum(facts.sizes.values()) == 85 - 5


def test_no_value_depends_on_later_rows(tmp_path: Path) -> None:
    """Filling and scaling look back: cutting off the end of the file changes nothing before it."""
    rows = [
        line if i % 9 else ",".join([line.split(",")[0], "", "1", "Ulm"]) for i, line in enumerate(lines(), start=1)
    ]
    whole = part(make(tmp_path, rows, split=[60, 10, 10]).load().val)
    shorter = part(make(tmp_path, rows[:72], split=[60, 10, 0]).load().val)
    assert torch.equal(whole.values, shorter.values)


def test_a_constant_column_stays_finite(tmp_path: Path) -> None:
    facts = make(
        tmp_path, [",".join([line.split(",")[0], "7.1", str(i % 5)]) for i, line in enumerate(lines())], "t,a,b"
    )
    splits = facts.load()
    assert splits.facts.target_scales[0] == (pytest.approx(7.1), 1.0)
    assert part(splits.train).values.abs().max() < 3
    assert "column 'a' is constant in the training part" in splits.facts.notes


def test_without_header_and_dates(tmp_path: Path) -> None:
    splits = make(tmp_path, [str(i % 7) for i in range(60)], header="").load()
    assert splits.facts.targets == ("column_0",)
    assert splits.facts.sizes == {"train": 33, "val": 3, "test": 9}


@pytest.mark.parametrize(
    ("n", "split", "rows"),
    [
        (17420, "auto", (12194, 1742, 3484)),
        (144, [0.7, 0.1, 0.2], (100, 16, 28)),
        (100, [0.5, 0.1, 0.1], (50, 10, 10)),
        (100, [1.0, 0.0, 0.0], (100, 0, 0)),
        (17420, [8640, 2880, 2880], (8640, 2880, 2880)),
    ],
)
def test_the_rows_of_each_part(n: int, split: Any, rows: tuple[int, ...]) -> None:
    assert part_rows(n, split) == rows


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ([0.7, 0.3], "must be three shares"),
        ("half", "must be three shares"),
        ([0.7, 0.3, 0.2], "adds up to more than the whole"),
        ([90, 5, 6], "adds up to 101 rows; the series has 100"),
        ([50.5, 20, 20], "must be three shares"),
        ([0, 0.5, 0.5], "must be three shares"),
        ([0.8, -0.1, 0.1], "must be three shares"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        part_rows(100, split)


def test_too_short_a_series_is_refused_with_the_largest_that_works(tmp_path: Path) -> None:
    sentence = (
        "100 rows, 70 for training, 10 for validation and 20 for test: too few for data.look_back=96 and data."
        "horizon=24; the largest that work are data.look_back=60 data.horizon=10"
    )
    with pytest.raises(DataError, match=sentence):
        make(tmp_path, look_back=96, horizon=24).load()
    assert make(tmp_path, look_back=60, horizon=10).facts().sizes == {"train": 1, "val": 1, "test": 11}
    with pytest.raises(DataError, match=r"work are data.look_back=66 data.horizon=4"):
        make(tmp_path, look_back=67).load()
    with pytest.raises(DataError, match="too few for one window"):
        make(tmp_path, lines(2)).load()


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data=series needs a file; run 'dlrun train data=series data.path=FILE.csv"):
        Series().facts()
    with pytest.raises(DataError, match=r"no column 'bb'.*did you mean data.target=b\?"):
        make(tmp_path, target="bb").facts()
    with pytest.raises(DataError, match="line 2, column 'place': 'Ulm' is not a number"):
        make(tmp_path, target="place").facts()
    with pytest.raises(ConfigError, match="column 'date' tells the time, so it is no value"):
        make(tmp_path, inputs=["date", "a"]).facts()
    with pytest.raises(ConfigError, match="must name each column once"):
        make(tmp_path, target=["a", "a"]).facts()
    with pytest.raises(ConfigError, match=r"data.horizon=0 must be at least 1 row"):
        make(tmp_path, horizon=0).facts()
    with pytest.raises(ConfigError, match=r"data.header=maybe is none of auto, true, false"):
        Series(path="x.csv", header="maybe").facts()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "2024-01-01 05:00:00,broken,1,Ulm",
            "line 7, column 'a': 'broken' is not a number; correct it or leave it empty",
        ),
        ("2024-01-01 05:00:00,inf,1,Ulm", r"line 7, column 'a': 'inf' is beyond 1e\+30"),
        ("2024-01-01 05:00:00,1,1", "line 7: expected 4 fields, found 3"),
        ("05:00 o'clock,1,1,Ulm", "line 7, column 'date': .* is not written as the others"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: str, sentence: str) -> None:
    rows = lines()
    rows[5] = row
    with pytest.raises(DataError, match=sentence):
        make(tmp_path, rows).facts()


def test_a_file_without_numbers_is_refused(tmp_path: Path) -> None:
    rows = [line.split(",")[0] + ",Ulm" for line in lines()]
    with pytest.raises(
        DataError, match=r"no column of numbers to forecast \(column 'place' is left out: it holds no number\)"
    ):
        make(tmp_path, rows, "date,place").facts()
    with pytest.raises(DataError, match="column 'a' is empty, so there is nothing to forecast"):
        make(tmp_path, [line.split(",")[0] + ",,1" for line in lines()], "date,a,b", target="a").facts()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_junk_gives_windows_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk.csv"
    path.write_bytes(content)
    with suppress(DlrunError):
        assert Series(path=str(path), look_back=1, horizon=1, split=[1.0, 0, 0]).facts().sizes["train"] > 0


def test_a_file_to_predict_from_gives_its_last_window(tmp_path: Path) -> None:
    splits = make(tmp_path, target="b").load()
    state = json.loads(json.dumps(splits.preprocess.state()))
    stored = restore_preprocess(state)
    assert stored == splits.preprocess
    inputs, names = stored.read(Path(write(tmp_path, lines(120), name="new.csv")))
    assert (inputs.shape, names) == ((1, 6, 2), ["2024-01-05 23:00:00"])
    (mean, deviation) = state["mean"][1], state["deviation"][1]
    torch.testing.assert_close(
        inputs[0, :, 1].double() * deviation + mean, torch.arange(114.0, 120).double(), rtol=0, atol=1e-4
    )
    assert torch.equal(stored(inputs), inputs)
    columns = [",".join([b, place, a]) for _, a, b, place in (line.split(",") for line in lines(120))]
    undated, names = stored.read(Path(write(tmp_path, columns, "b,place,a", name="undated.csv")))
    assert (torch.equal(undated, inputs), names) == (True, ["row 120"])
    headless, _ = stored.read(Path(write(tmp_path, lines(120)[::-1], header="", name="headless.csv")))
    assert torch.equal(headless, inputs), "sorted by its dates"


def test_a_file_to_predict_from_that_will_not_do(tmp_path: Path) -> None:
    stored = make(tmp_path).load().preprocess
    for rows, header, sentence in (
        (lines(5), HEADER, "has 5 rows; the network looks back on 6, so give more"),
        (lines(9), "date,a,bb,place", "no column 'b', which the model was trained on; rename 'bb' to it"),
        (["1,2,3,4,5"] * 9, "", "has 5 columns and none of the names the model was trained on: a, b"),
        ([line.replace("Ulm", "x").replace(",3,", ",three,") for line in lines(9)], HEADER, "'three' is not a number"),
    ):
        with pytest.raises(DataError, match=sentence):
            stored.read(Path(write(tmp_path, rows, header, name="bad.csv")))


def test_the_preprocessing_is_plain_data() -> None:
    made = SeriesPreprocess(("a",), (1.0,), (2.0,), 3, ("t", "a"), ("t",))
    assert SeriesPreprocess.restore(made.state()) == made


def test_the_usual_split_of_etth1(shared_data: Path) -> None:
    """Parts, number of windows and scaling of the literature's loader (8640, 2880 and 2880 hours)."""
    splits = Series(
        path=str(shared_data / "ett" / "ETTh1.csv"), look_back=336, horizon=96, split=[8640, 2880, 2880]
    ).load()
    assert splits.facts.sizes == {"train": 8209, "val": 2785, "test": 2785}
    assert splits.facts.targets == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert splits.facts.notes[0] == "time: column 'date', 1 hour apart"
    assert part(splits.train).values.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(part(splits.train).values.std(0, correction=0), torch.ones(7), rtol=1e-5, atol=0)
    assert torch.equal(part(splits.val).values[:336], part(splits.train).values[-336:])


def test_small_real_series(shared_data: Path) -> None:
    folder = shared_data / "series-small"
    air = Series(path=str(folder / "airline-passengers.csv"), look_back=24, horizon=12).facts()
    assert (air.targets, air.notes) == (("Passengers",), ("time: column 'Month', 1 month apart",))
    stocks = Series(path=str(folder / "sp500-2000.csv"), target="close", inputs="close").facts()
    assert stocks.features == ("close",)
    assert "1 day apart, but not all" in stocks.notes[0]

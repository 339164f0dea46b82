import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.data import restore_preprocess
from dlrun.data.csv_table import CSV
from dlrun.data.tabular import three_parts
from dlrun.errors import ConfigError, DataError, DlrunError

REAL = Path(__file__).parents[3] / "shared" / "data"


def real(name: str) -> str:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    return str(path)


def write(folder: Path, rows: list[str], header: str = "size,colour,kind", name: str = "table.csv") -> str:
    path = folder / name
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return str(path)


def plain_rows(n: int = 60) -> list[str]:
    return [f"{i * 7 % 13}.5,{('red', 'blue')[i % 3 == 0]},{('cat', 'dog')[i % 2]}" for i in range(n)]


def notes(data: CSV) -> str:
    return "\n".join(data.facts().notes)


def test_classification_end_to_end(tmp_path):
    data = CSV(path=write(tmp_path, plain_rows()))
    facts, splits = data.facts(), data.load()
    assert splits.facts is facts
    assert (facts.kind, facts.task, facts.classes) == ("table", "classification", ("cat", "dog"))
    assert facts.features == ("size", "colour=red", "colour=blue")
    assert facts.input_shape == (3,)
    assert facts.sizes == {"train": 43, "val": 5, "test": 12}
    assert splits.train.inputs.dtype == torch.float32
    assert splits.train.targets.dtype == torch.int64
    assert (splits.test.targets == 0).sum() == 6  # stratified
    assert abs(splits.train.inputs[:, 0].mean()) < 1e-6
    assert abs(splits.train.inputs[:, 0].std(correction=0) - 1) < 1e-6


def test_statistics_see_the_training_part_alone(tmp_path):
    first = CSV(path=write(tmp_path, plain_rows())).load()
    rows = plain_rows()
    everything = CSV(path=write(tmp_path, rows), val=0.0, test=0.0).load()
    # overwrite every row that is not in the training part; the encoders must stay the same
    labels = torch.tensor([i % 2 for i in range(60)])
    _, val, test = three_parts(60, 0.1, 0.2, 0, labels)
    for row in torch.cat([val, test]).tolist():
        rows[row] = f"9999,never seen,{rows[row].split(',')[2]}"
    changed = CSV(path=write(tmp_path, rows)).load()
    assert changed.preprocess == first.preprocess
    assert torch.equal(changed.train.inputs, first.train.inputs)
    assert changed.preprocess != everything.preprocess
    assert changed.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["a", "b"], "classification", ("a", "b")),
        (["1", "0"], "classification", ("0", "1")),
        (["10", "9", "2"], "classification", ("2", "9", "10")),
        (["1.0", "2.0"], "classification", ("1", "2")),
        (["+", "-"], "classification", ("+", "-")),
        (["none", "some"], "classification", ("none", "some")),
        (["0.5", "1.5"], "regression", ()),
        ([str(i) for i in range(30)], "regression", ()),
        ([str(i) for i in range(12)], "classification", tuple(map(str, range(12)))),
    ],
)
def test_task_is_inferred_from_the_target(tmp_path, values, task, classes):
    rows = [f"{i % 7},{values[i % len(values)]}" for i in range(60)]
    facts = CSV(path=write(tmp_path, rows, "x,y")).facts()
    assert facts.task == task
    assert facts.classes == classes
    assert facts.targets == (() if classes else ("y",))


def test_task_can_be_given(tmp_path):
    path = write(tmp_path, [f"{i % 7},{i % 3}" for i in range(60)], "x,y")
    assert "data.task=regression" in notes(CSV(path=path))
    splits = CSV(path=path, task="regression").load()
    assert splits.facts.targets == ("y",)
    assert set(splits.train.targets.flatten().tolist()) == {0.0, 1.0, 2.0}  # raw units
    assert splits.train.targets.shape[1] == 1


def test_several_targets_are_regression(tmp_path):
    path = write(tmp_path, [f"{i % 7},{i % 3},{i / 10}" for i in range(60)], "x,y,z")
    splits = CSV(path=path, target=["z", "y"]).load()
    assert splits.facts.targets == ("z", "y")
    assert splits.facts.features == ("x",)
    assert splits.train.targets.shape == (43, 2)
    with pytest.raises(ConfigError, match=r"data\.task=regression"):
        CSV(path=path, target=["z", "y"], task="classification").facts()


@pytest.mark.parametrize("target", ["kind", 2, -1])
def test_target_by_name_or_index(tmp_path, target):
    assert CSV(path=write(tmp_path, plain_rows()), target=target).facts().classes == ("cat", "dog")


def test_rows_without_target_are_left_out_and_counted(tmp_path):
    rows = plain_rows()
    rows[3], rows[8] = "1,red,", "2,blue,?"
    data = CSV(path=write(tmp_path, rows))
    assert sum(data.facts().sizes.values()) == 58
    assert "2 rows without a target are left out" in notes(data)


def test_own_files_for_validation_and_test(tmp_path):
    rows = plain_rows()
    main = write(tmp_path, rows)
    shuffled = write(tmp_path, ["dog,green,3", "cat,red,4", ",red,5"], "kind,colour,size", "test.csv")
    data = CSV(path=main, test_path=shuffled, val_path=main)
    splits = data.load()
    assert splits.facts.sizes == {"train": 60, "val": 60, "test": 2}
    assert splits.test.targets.tolist() == [1, 0]
    assert splits.test.inputs[:, 1:].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert splits.fingerprint != CSV(path=main).load().fingerprint


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        (
            "size,colour,kind",
            ["1,red,cat", "1,red,dgo"],
            "test.csv, line 3, column 'kind': 'dgo' .* did you mean 'dog'",
        ),
        ("size,kind", ["1,cat", "2,dog"], "has no column 'colour'"),
        ("size,colour,kin", ["1,red,cat"], "no column 'kind'"),
        ("size,colour,kind", ["1,red,cat", "x,red,dog"], "line 3, column 'size': 'x' is not a number"),
        ("size,colour,kind", ["1,red,", "2,red,"], "no row with a target"),
        ("size,colour,kind", [], "only a header"),
    ],
)
def test_bad_test_files(tmp_path, header, rows, says):
    main, test = write(tmp_path, plain_rows()), write(tmp_path, rows, header, "test.csv")
    with pytest.raises(DataError, match=says) as caught:
        CSV(path=main, test_path=test).facts()
    assert "test.csv" in str(caught.value)


def test_test_file_without_header(tmp_path):
    main = write(tmp_path, plain_rows(), "")
    test = write(tmp_path, ["1,red,cat", "2,blue,dog"], "", "test.csv")
    assert CSV(path=main, test_path=test).facts().sizes["test"] == 2
    narrow = write(tmp_path, ["red,cat", "blue,dog"], "", "narrow.csv")
    with pytest.raises(DataError, match="has 2 columns"):
        CSV(path=main, test_path=narrow).facts()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"path": None}, "data.path=FILE"),
        ({"target": "knid"}, r"no column 'knid'; did you mean data\.target=kind\?"),
        ({"target": 3}, "has 3 columns, so data.target=3 is none"),
        ({"target": -4}, "is none of them"),
        ({"target": []}, "must name each column"),
        ({"target": ["kind", 2]}, "must name each column"),
        ({"task": "clasification"}, "is none of auto, classification, regression"),
        ({"header": "maybe"}, "is none of auto, true, false"),
        ({"max_categories": 0}, "at least 1"),
        ({"test": 1.5}, "data.test"),
        ({"val": -0.1}, "data.val"),
        ({"task": "regression"}, "line 2, column 'kind': 'cat' is not a number"),
        ({"numeric": ["colour"]}, "line 2, column 'colour': 'blue' is not a number"),
        ({"target": "size", "task": "classification", "drop": ["colour", "kind"]}, "no column to learn from"),
        ({"header": True, "path": "titleless"}, "titleless does not exist"),
    ],
)
def test_wrong_keys_are_refused(tmp_path, keys, says):
    path = write(tmp_path, plain_rows())
    with pytest.raises(DlrunError, match=says):
        CSV(**{"path": path, **keys}).facts()


def test_checkpointed_preprocess_reads_like_training(tmp_path):
    rows = plain_rows()
    rows[3] = ",,cat"
    path = write(tmp_path, rows)
    splits = CSV(path=path, val=0.0, test=0.0).load()
    preprocess = restore_preprocess(json.loads(json.dumps(splits.preprocess.state())))
    assert torch.equal(preprocess.read(Path(path))[0], splits.train.inputs)
    blind = write(tmp_path, [row.rsplit(",", 1)[0] for row in rows], "size,colour", "blind.csv")
    assert torch.equal(preprocess.read(Path(blind))[0], splits.train.inputs)


def test_california_housing_is_regression():
    data = CSV(path=real("california-housing/housing.csv"), target="median_house_value")
    facts = data.facts()
    assert (facts.task, sum(facts.sizes.values())) == ("regression", 20_640)
    assert "column 'total_bedrooms': 207 gaps filled with the median" in notes(data)
    assert facts.input_shape == (13,)
    assert data.load().train.inputs.isfinite().all()


def test_titanic_is_binary():
    data = CSV(path=real("titanic/train.csv"), target="Survived")
    assert data.facts().classes == ("0", "1")
    for name in ("PassengerId", "Name", "Ticket"):
        assert f"column '{name}' is dropped" in notes(data)
    assert {"Pclass", "Sex=male", "Age", "Fare"} <= set(data.facts().features)


def test_adult_is_binary_without_a_header():
    data = CSV(path=real("adult/adult.data"))
    assert data.facts().classes == ("<=50K", ">50K")
    assert sum(data.facts().sizes.values()) == 32_561
    assert "column_8=Amer-Indian-Eskimo" in data.facts().features


CELL = st.one_of(
    st.sampled_from(["", "?", "a", "b", "0", "1", "2.5", "1e5", "-3", "1e30", "nan", "x y", '"q"', "1,5", "1e-320"]),
    st.integers(-5, 5).map(str),
    st.floats(allow_nan=True).map(str),
    st.text(max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=25)),
    separator=st.sampled_from([",", ";", "\t", " "]),
    repeat=st.integers(1, 3),
    task=st.sampled_from(["auto", "classification", "regression"]),
)
def test_random_tables_raise_nothing_but_data_errors(tmp_path_factory, rows, separator, repeat, task):
    path = tmp_path_factory.getbasetemp() / "random-table.csv"
    path.write_bytes("\n".join(separator.join(row) for row in rows * repeat).encode("utf-8", "surrogatepass"))
    try:
        splits = CSV(path=str(path), task=task).load()
    except DataError:
        return
    for part in (splits.train, splits.val, splits.test):
        assert part.inputs.shape == (len(part.targets), *splits.facts.input_shape)
        assert part.inputs.isfinite().all()
        assert part.targets.isfinite().all()

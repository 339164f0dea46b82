import json
from pathlib import Path

import pytest
import torch

from dlrun.data import restore_preprocess
from dlrun.data.columns import CategoryColumn, NumberColumn
from dlrun.data.tabular import TablePreprocess, part_sizes, three_parts
from dlrun.errors import DataError

COLUMNS = (NumberColumn("age", fill=30.0, mean=30.0, std=10.0), CategoryColumn("city", ("Bonn", "Ulm"), other=False))
PREPROCESS = TablePreprocess(COLUMNS, ("id", "age", "city", "rent"), ("rent",))


def write(folder: Path, text: str) -> Path:
    path = folder / "new.csv"
    path.write_text(text)
    return path


def test_preprocess_state_survives_json():
    assert restore_preprocess(json.loads(json.dumps(PREPROCESS.state()))) == PREPROCESS
    assert PREPROCESS.features == ("age", "city=Bonn", "city=Ulm")


def test_call_is_the_identity():
    inputs = torch.randn(5, 3)
    assert torch.equal(PREPROCESS(inputs), inputs)
    assert PREPROCESS(inputs.double()).dtype == torch.float32


@pytest.mark.parametrize(
    "text",
    [
        "id,age,city,rent\n7,40,Ulm,500\n8,,Bonn,600\n",
        "city,age\nUlm,40\nBonn,?\n",
        "rent;city;more;age\n1;Ulm;x;40\n2;Bonn;y;\n",
        "7,40,Ulm,500\n8,,Bonn,600\n",
        "7,40,Ulm\n8,,Bonn\n",
        "40,Ulm\nNA,Bonn\n",
    ],
)
def test_read_matches_columns_by_name_or_position(tmp_path, text):
    inputs, names = PREPROCESS.read(write(tmp_path, text))
    assert inputs.dtype == torch.float32
    assert inputs.tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    assert names == ["row 1", "row 2"]


def test_read_takes_one_row_of_texts_for_a_row(tmp_path):
    preprocess = TablePreprocess((COLUMNS[1],), ("city", "kind"), ("kind",))
    assert preprocess.read(write(tmp_path, "Ulm\n"))[0].tolist() == [[0.0, 1.0]]
    assert preprocess.read(write(tmp_path, "Ulm,big\n"))[0].tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,aeg,city\n1,2,Ulm\n", "has no column 'age', which the model was trained on; rename 'aeg' to it"),
        ("1,2,3,4,5\n", "has 5 columns .* expected 3 columns: id, age, city"),
        ("age,city\n1,Ulm\nold,Ulm\n", "line 3, column 'age': 'old' is not a number"),
        ("age,city\n1,Ulm\n1e999,Ulm\n", "line 3, column 'age': '1e999' is beyond"),
        ("age,city\n", "only a header"),
    ],
)
def test_read_names_file_and_column(tmp_path, text, says):
    with pytest.raises(DataError, match=says) as caught:
        PREPROCESS.read(write(tmp_path, text))
    assert "new.csv" in str(caught.value)


def test_standardising_uses_the_training_part():
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    preprocess = TablePreprocess.standardising(("a", "b"), train, "y")
    assert preprocess.encode_numbers(torch.tensor([[1.0, 6.0], [5.0, 5.0]])).tolist() == [[-1.0, 6.0], [3.0, 5.0]]


@pytest.mark.parametrize(("n", "val", "test"), [(150, 0.1, 0.2), (7, 0.0, 0.5), (500, 0.25, 0.0), (5, 0.1, 0.2)])
def test_three_parts_cover_everything_once(n, val, test):
    labels = torch.arange(n) % 3
    for stratum in (None, labels):
        parts = three_parts(n, val, test, 0, stratum)
        assert torch.cat(parts).sort().values.tolist() == list(range(n))
        assert dict(zip(("train", "val", "test"), map(len, parts), strict=True)) == part_sizes(n, val, test)

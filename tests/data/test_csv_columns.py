from pathlib import Path

import pytest

from dlrun.data.csv_table import CSV
from dlrun.errors import ConfigError, DataError


def write(folder: Path, rows: list[str], header: str = "size,colour,kind", name: str = "table.csv") -> str:
    path = folder / name
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return str(path)


def plain_rows(n: int = 60) -> list[str]:
    return [f"{i * 7 % 13}.5,{('red', 'blue')[i % 3 == 0]},{('cat', 'dog')[i % 2]}" for i in range(n)]


def notes(data: CSV) -> str:
    return "\n".join(data.facts().notes)


def test_useless_columns_are_dropped_with_a_note(tmp_path):
    header = "number,PassengerId,name,same,empty,x,y"
    rows = [f"{i + 1},{(i * 37) % 101},person {i},5,,{i * i % 11},{'ab'[i % 2]}" for i in range(60)]
    data = CSV(path=write(tmp_path, rows, header))
    assert data.facts().features == ("x",)
    said = notes(data)
    for name in ("number", "PassengerId"):
        assert f"column '{name}' is dropped: it numbers the rows" in said
    assert "column 'name' is dropped: most of its texts occur only once" in said
    assert "column 'same' is dropped: it is constant" in said
    assert "column 'empty' is dropped" in said


def test_a_running_number_is_kept_where_there_is_nothing_else(tmp_path):
    data = CSV(path=write(tmp_path, [f"{i},{i * 0.3}" for i in range(60)], "x,y"))
    assert data.facts().features == ("x",)
    assert "dropped" not in notes(data)


def test_overrides_of_single_columns(tmp_path):
    path = write(tmp_path, [f"{i},{i % 3},{i % 5},{'ab'[i % 2]}" for i in range(60)], "id,code,x,y")
    assert CSV(path=path).facts().features == ("code", "x")
    assert CSV(path=path, numeric=["id"]).facts().features == ("id", "code", "x")
    coded = CSV(path=path, categorical=["code"]).facts().features
    assert set(coded) == {"code=0", "code=1", "code=2", "x"}
    assert CSV(path=path, drop=["code", 0]).facts().features == ("x",)
    with pytest.raises(DataError, match=r"no column 'cod'; did you mean data\.drop=code\?"):
        CSV(path=path, drop=["cod"]).facts()
    with pytest.raises(ConfigError, match=r"'y' is in data\.target and in data\.drop"):
        CSV(path=path, drop=["y"]).facts()
    with pytest.raises(ConfigError, match=r"data\.categorical and data\.numeric"):
        CSV(path=path, categorical=["x"], numeric=["x"]).facts()


def test_most_frequent_categories_are_kept(tmp_path):
    rows = [f"{'aaabbc'[i % 6]}{'' if i % 30 else i},{'xy'[i % 2]}" for i in range(90)]
    data = CSV(path=write(tmp_path, rows, "letter,kind"), max_categories=2)
    assert data.facts().features == ("letter=a", "letter=b", "letter=other")
    assert "all but the 2 most frequent values are 'other'" in notes(data)
    assert (data.load().test.inputs.sum(1) == 1).all()


def test_gaps_are_filled_and_counted(tmp_path):
    rows = plain_rows()
    rows[3], rows[8], rows[9] = "NA,,cat", "?,red,dog", "-,N/A,cat"
    path = write(tmp_path, rows)
    data = CSV(path=path, val=0.0, test=0.0)
    assert "column 'size': 3 gaps filled with the median" in notes(data)
    assert "column 'colour': 2 gaps are a category of their own" in notes(data)
    assert "colour=missing" in data.facts().features
    assert data.load().train.inputs.isfinite().all()
    unseen = CSV(path=path)  # neither gap of the colours is in this training part
    assert "column 'colour': 2 gaps are taken like values never seen" in notes(unseen)
    assert "colour=missing" not in unseen.facts().features

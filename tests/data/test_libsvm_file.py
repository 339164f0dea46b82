"""LIBSVM's format: what a line means, what the labels mean, and a sentence for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dlrun.data import restore_preprocess
from dlrun.data.libsvm_file import LibsvmFile, LibsvmPreprocess, read_lines
from dlrun.errors import ConfigError, DataError

LINES = "+1 1:0.5 3:-2 # a comment\n-1 2:1e-3\n\n# nothing here\n+1 qid:7 1:1\n-1\n-1 3:4\n+1 1:2\n"
DENSE = [[0.5, 0, -2], [0, 1e-3, 0], [1, 0, 0], [0, 0, 0], [0, 0, 4], [2, 0, 0]]


def write(path: Path, text: str | bytes, name: str = "data") -> str:
    file = path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def rows(count: int, labels: tuple[str, ...] = ("1", "2")) -> str:
    return "".join(f"{labels[i % len(labels)]} 1:{i} 2:{i % 3}\n" for i in range(count))


def test_lines_become_rows_with_their_zeros(tmp_path: Path) -> None:
    splits = LibsvmFile(path=write(tmp_path, LINES), val=0, test=0).load()
    train: Any = splits.train
    torch.testing.assert_close(train.inputs, torch.tensor(DENSE))
    assert train.inputs.dtype == torch.float32
    assert train.targets.tolist() == [1, 0, 1, 0, 0, 1]
    assert splits.facts.classes == ("-1", "1")
    assert (splits.facts.kind, splits.facts.input_shape, splits.facts.task) == ("table", (3,), "classification")
    assert "classification, judged by 2 different labels" in splits.facts.notes[0]


def test_files_agree_on_their_features(tmp_path: Path) -> None:
    data = {"path": write(tmp_path, rows(10), "a"), "test_path": write(tmp_path, "2 5:1\n1 1:3\n", "b")}
    splits = LibsvmFile(**data, val=0).load()
    assert splits.facts.input_shape == (5,)
    assert splits.facts.sizes == {"train": 10, "val": 0, "test": 2}
    test: Any = splits.test
    assert test.inputs.tolist() == [[0, 0, 0, 0, 1], [3, 0, 0, 0, 0]]
    assert test.targets.tolist() == [1, 0]


def test_an_index_of_0_makes_0_the_first(tmp_path: Path) -> None:
    data = {"path": write(tmp_path, rows(10), "a"), "val_path": write(tmp_path, "2 0:7\n", "b")}
    splits = LibsvmFile(**data, test=0).load()
    assert splits.facts.input_shape == (3,)
    val: Any = splits.val
    assert val.inputs.tolist() == [[7, 0, 0]]


def test_the_split_is_stratified_and_seeded(tmp_path: Path) -> None:
    path = write(tmp_path, rows(100))
    splits = LibsvmFile(path=path).load()
    assert list(splits.facts.sizes.values()) == [72, 8, 20]
    test: Any = splits.test
    assert torch.bincount(test.targets).tolist() == [10, 10]
    again, other = LibsvmFile(path=path).load(), LibsvmFile(path=path, seed=1).load()
    assert torch.equal(test.inputs, again.test.inputs)  # type: ignore[union-attr]
    assert not torch.equal(test.inputs, other.test.inputs)  # type: ignore[union-attr]
    assert splits.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (("1", "2", "3"), "auto", ("1", "2", "3")),
        (("10", "9", "0"), "auto", ("0", "9", "10")),
        (("0.5", "1.5", "2"), "auto", ()),
        (("0.5", "1.5", "2"), "classification", ("0.5", "1.5", "2")),
        (("1", "2", "3"), "regression", ()),
        (tuple(map(str, range(101))), "auto", ()),
    ],
)
def test_labels_are_classes_or_values(
    tmp_path: Path, labels: tuple[str, ...], task: str, expected: tuple[str, ...]
) -> None:
    facts = LibsvmFile(path=write(tmp_path, rows(210, labels)), task=task).facts()
    assert facts.classes == expected
    assert facts.task == ("classification" if expected else "regression")
    assert facts.targets == (() if expected else ("label",))


def test_values_keep_their_own_units(tmp_path: Path) -> None:
    splits = LibsvmFile(path=write(tmp_path, rows(6, ("0.1", "-7e3"))), val=0, test=0, task="regression").load()
    train: Any = splits.train
    assert train.targets.dtype == torch.float64
    assert train.targets.flatten().tolist() == [0.1, -7e3] * 3


def test_a_file_is_read_for_prediction_by_the_stored_state(tmp_path: Path) -> None:
    splits = LibsvmFile(path=write(tmp_path, LINES), val=0, test=0).load()
    restored = restore_preprocess(json.loads(json.dumps(splits.preprocess.state())))
    raw, names = restored.read(Path(write(tmp_path, "0 3:1\n0 1:2 2:2\n", "new")))
    assert restored(raw).tolist() == [[0, 0, 1], [2, 2, 0]]
    assert names == ["row 1", "row 2"]
    with pytest.raises(DataError, match="a feature 9, but the model was trained on features 1 to 3"):
        restored.read(Path(write(tmp_path, "0 9:1\n", "more")))
    with pytest.raises(DataError, match="a feature 0"):
        restored.read(Path(write(tmp_path, "0 0:1\n", "zero")))
    assert LibsvmPreprocess(2, 0).read(Path(write(tmp_path, "0 0:1\n", "zero")))[0].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 1:1\nyes 1:2\n", "line 2: the label 'yes' is not a number"),
        ("1 1:1\n\n1 2:x\n", "line 3: '2:x' is not index:value"),
        ("1 1:1 2\n", "line 1: '2' is not index:value"),
        ("1 -1:1\n", "line 1: '-1:1' is not"),
        ("1 2:1 1:1\n", "line 1: index 1 does not rise"),
        ("1 1:1 1:1\n", "line 1: index 1 does not rise"),
        ("1 1:1\nnan 1:1\n", "line 2: the label 'nan' is not a number"),
        ("1 1:1\n1 1:nan\n", "line 2: '1:nan' is not"),
        ("1 1:inf\n", "line 1: '1:inf' is not"),
        ("1 1:1e39\n", "line 1: '1:1e39' is not"),
        ("1 99999999999999999999:1\n", "line 1: index 99999999999999999999 does not rise"),
        ("1,2 1:1\n", "line 1: the label '1,2'"),
        ("# only this\n", "no example in it"),
        ("", "is empty"),
        (b"\x80\x04\x95\0\0", "NUL byte|control code"),
        (b"\x1f\x8b\x08abc", "gzip-compressed"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_lines(Path(write(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("1 1:1\n2 1:2\n", {}, "2 examples; at least 5"),
        (rows(8, ("1",)), {}, "1 different labels"),
        (rows(8, tuple("12345678")), {}, "add data.task=regression"),
        ("1\n2\n1\n2\n1\n", {}, "has no features"),
        (rows(6) + "1 2000000000:1\n", {}, r"2,000,000,000 features take 52\.\d GiB"),
        (rows(6), {"test_path": "OTHER"}, "the label 5, which no training example has: 1, 2"),
    ],
)
def test_examples_that_make_no_data_set_are_refused(
    tmp_path: Path, text: str, settings: dict[str, str], words: str
) -> None:
    other = write(tmp_path, "5 1:1\n", "other")
    settings = dict.fromkeys(settings, other)
    with pytest.raises(DataError, match=words):
        LibsvmFile(path=write(tmp_path, text), **settings).facts()  # type: ignore[arg-type]


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dlrun train data=libsvm data.path=FILE"):
        LibsvmFile().facts()
    with pytest.raises(ConfigError, match=r"data\.task=ranking"):
        LibsvmFile(path="x", task="ranking")
    with pytest.raises(DataError, match="did you mean"):
        LibsvmFile(path=write(tmp_path, rows(10), "train.txt").replace("train", "trian")).facts()


def test_a9a_as_its_readme_says(shared_data: Path) -> None:
    folder = shared_data / "libsvm"
    facts = LibsvmFile(path=str(folder / "a9a"), test_path=str(folder / "a9a.t"), val=0).facts()
    assert facts.sizes == {"train": 32561, "val": 0, "test": 16281}
    assert facts.input_shape == (123,)  # the test file ends at 122
    assert facts.classes == ("-1", "1")


def test_long_labels_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("".join(f"{1000001 + i % 3} 1:{i % 3}.5\n" for i in range(60)))
    facts = LibsvmFile(path=str(path)).facts()
    assert facts.classes == ("1000001", "1000002", "1000003")

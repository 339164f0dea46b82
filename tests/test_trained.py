"""A trained run on its own: restored, asked, and refused where it does not fit."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from dlrun.errors import CheckpointError, ConfigError, DataError, StorageError
from dlrun.trained import CHUNK, evaluate, predict, restore
from dlrun.training.checkpoint import Checkpoints, read, write
from quiet import Quiet, train_short


def table(path: Path, classes: tuple[str, str] = ("a", "b"), rows: int = 120) -> Path:
    lines = [f"{i % 7},{i % 5},{classes[i % 7 > 3]}" for i in range(rows)]
    path.write_text("\n".join(["x,y,kind", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose data is gone."""
    folder = tmp_path_factory.mktemp("trained")
    data = table(folder / "table.csv")
    done = train_short(folder / "outputs", "data=csv", f"data.path={data}", "trainer.checkpoint_every=20")
    data.unlink()
    return done.path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.csv"
    path.write_text("x,y\n" + "\n".join(f"{i % 7},{i % 5}" for i in range(CHUNK + 7)) + "\n")
    return path


def copied(run: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, folder / "copy"))


def test_prediction_needs_nothing_but_the_run(run: Path, asked: Path) -> None:
    found = predict(run, [asked], reporter=Quiet())
    assert len(found.rows) == CHUNK + 7
    assert found.path == run / "predictions" / "asked.csv"
    with found.path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in found.rows]
    assert set(rows[0]) == {"input", "prediction", "p(a)", "p(b)"}
    for row in rows:
        assert float(row["p(a)"]) + float(row["p(b)"]) == pytest.approx(1, abs=2e-6)
        assert row["prediction"] == ("a" if float(row["p(a)"]) >= 0.5 else "b")


def test_the_answer_to_an_example_does_not_depend_on_the_others(run: Path, asked: Path, tmp_path: Path) -> None:
    whole = predict(run, [asked], reporter=Quiet()).rows
    last = tmp_path / "last.csv"
    lines = asked.read_text().splitlines()
    last.write_text("\n".join([lines[0], lines[-1]]) + "\n")
    (row,) = predict(run, [last], reporter=Quiet()).rows
    assert row["p(a)"] == pytest.approx(whole[-1]["p(a)"], abs=1e-5)


def test_several_files_are_named_in_the_answer(run: Path, asked: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("x,y\n1,2\n")
    target = tmp_path / "deep" / "answer.csv"
    found = predict(run, [asked, other], output=target, reporter=Quiet())
    assert found.path == target
    assert {row["file"] for row in found.rows} == {"asked.csv", "other.csv"}


def test_the_best_network_is_restored(run: Path) -> None:
    trained, best = restore(run), Checkpoints(run / "checkpoints").best()
    assert best is not None
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, best["model"][name])
    assert trained.facts.classes == ("a", "b")
    assert isinstance(trained.facts.input_shape, tuple)


def test_without_a_best_network_the_newest_is_restored(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    (copy / "checkpoints" / "best.ckpt").unlink()
    newest = Checkpoints(copy / "checkpoints").newest()
    assert newest is not None
    trained = restore(copy)
    assert trained.state["step"] == newest[0]["step"] == 40


def test_a_run_without_a_checkpoint_says_how_to_get_one(run: Path, asked: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    for path in (copy / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint yet; train it first: dlrun resume"):
        predict(copy, [asked], reporter=Quiet())


def test_a_checkpoint_that_does_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    config = copy / "config.yaml"
    changed = re.sub(r"(?m)^( *)- 16$", r"\1- 17", config.read_text())
    assert changed != config.read_text()
    config.write_text(changed)
    with pytest.raises(CheckpointError, match="does not fit the model") as caught:
        restore(copy)
    assert "\n" not in str(caught.value)


def test_a_hostile_configuration_beside_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    from dlrun.errors import RefusedError

    copy = copied(run, tmp_path)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("dlrun.models.mlp.MLP", "os.system"))
    with pytest.raises(RefusedError, match=r"os\.system"):
        restore(copy)


def test_evaluation_needs_the_data_and_the_right_part(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table\.csv"):
        evaluate(run, reporter=Quiet())
    with pytest.raises(ConfigError, match=r"--split tast.*did you mean 'test'"):
        evaluate(run, split="tast", reporter=Quiet())
    unheld = train_short(tmp_path, "data.val=0", "trainer.steps=2")
    with pytest.raises(ConfigError, match="has no val part"):
        evaluate(unheld.path, split="val", reporter=Quiet())


def test_evaluation_refuses_other_data(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    done = train_short(tmp_path / "outputs", "data=csv", f"data.path={data}", "trainer.steps=2")
    table(data, rows=121)
    with pytest.raises(DataError, match="fingerprint differs"):
        evaluate(done.path, reporter=Quiet())


def test_what_cannot_be_asked(run: Path, asked: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="predict needs at least one file"):
        predict(run, [], reporter=Quiet())
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        predict(run, [tmp_path / "nowhere.csv"], reporter=Quiet())
    with pytest.raises(StorageError, match="cannot be written"):
        predict(run, [asked], output=asked / "below" / "a.csv", reporter=Quiet())
    with pytest.raises(ConfigError):
        restore(tmp_path)


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless(start: str, tmp_path: Path) -> None:
    formula = f"{start}cmd|calc"
    data = table(tmp_path / "table.csv", (formula, "b"))
    done = train_short(tmp_path / "outputs", "data=csv", f"data.path={data}", "trainer.steps=2")
    found = predict(done.path, [data], reporter=Quiet())
    with found.path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@") or cell.startswith("-c")]
    assert f"'{formula}" in cells or {row["prediction"] for row in found.rows} == {"b"}


def test_a_prediction_file_replaces_the_last_one(run: Path, asked: Path) -> None:
    first = predict(run, [asked], reporter=Quiet()).path.read_bytes()
    assert predict(run, [asked], reporter=Quiet()).path.read_bytes() == first


def test_a_damaged_best_network_is_named(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    best = copy / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"best\.ckpt"):
        restore(copy)
    state = read(run / "checkpoints" / "best.ckpt")
    write(best, state)
    assert restore(copy).state["step"] == state["step"]

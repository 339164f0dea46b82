"""A trained run on its own: restored, asked, and refused where it does not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dlrun.errors import CheckpointError, ConfigError, DataError
from dlrun.trained import evaluate, restore
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


def copied(run: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, folder / "copy"))


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


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        restore(tmp_path)


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


def test_a_damaged_best_network_is_named(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    best = copy / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"best\.ckpt"):
        restore(copy)
    state = read(run / "checkpoints" / "best.ckpt")
    write(best, state)
    assert restore(copy).state["step"] == state["step"]


def test_an_averaged_network_with_nothing_held_out_is_the_averaged_one(tmp_path: Path) -> None:
    done = train_short(tmp_path, "data.val=0", "trainer.ema=0.99")
    again = evaluate(done.path, reporter=Quiet())
    assert again["test/loss"] == done.metrics["test/loss"]

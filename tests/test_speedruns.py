"""scripts/bench/speedruns.py from end to end on a few steps, and what it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlrun.build import check
from dlrun.config import compose
from dlrun.errors import ConfigError

FEW = ["trainer.steps=2", "trainer.batch_size=8", "trainer.limit.test=20", "trainer.limit.train=40"]


@pytest.fixture
def speedruns(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "scripts" / "bench"))
    import speedruns as module

    return module


def row(**changed: Any) -> dict[str, Any]:
    times = {"median": 0.25, "low": 0.2, "high": 0.3}
    runs = [{"value": value, "steps": 235, "training": 0.25, "fit": 0.25, "whole": 1.0} for value in (0.991, 0.992)]
    found = {
        "experiment": "speedrun_mnist", "metric": "test/accuracy", "goal": 0.99, "mean": 0.9915, "deviation": 0.0007,
        "reached": True, "words": [], "aim": "0.3", "operations_per_step": 1, "runs": runs, "training": times,
    }  # fmt: skip
    return found | changed


def test_it_runs_its_experiment_over_the_seeds(repository: Path, shared_data: Path, tmp_path: Path) -> None:
    """Warm runs in one process, a cold one; changed settings are shown and not stored."""
    words = ["mnist", "--root", str(shared_data), "--device", "cpu", "--seeds", "2", "--cold"]
    program = repository / "scripts" / "bench" / "speedruns.py"
    command = [sys.executable, program, *words, "--results", str(tmp_path / "results"), "--words", *FEW]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| speedrun_mnist"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert "trainer.steps=2" in cells[0]
    assert cells[2].endswith("not reached")  # two steps: a chance of one in ten
    assert cells[3:5] == ["2", "2"]
    assert all(cells[5:8]), "training, whole and cold"
    assert not (tmp_path / "results").exists()


def test_rows_stay_beside_those_of_other_machines_and_targets(speedruns: ModuleType, tmp_path: Path) -> None:
    here, there = {"hardware": "here"}, {"hardware": "there"}
    speedruns.store(tmp_path, there, {"mnist": row()})
    speedruns.store(tmp_path, here, {"fashion_mnist": row(experiment="speedrun_fashion_mnist", reached=False)})
    text = speedruns.store(tmp_path, here, {"mnist": row(cold=3.0, share_of_peak=0.123)})
    kept = json.loads((tmp_path / "speedruns.json").read_text())
    assert {name: set(machine["rows"]) for name, machine in kept.items()} == {
        "there": {"mnist"},
        "here": {"fashion_mnist", "mnist"},
    }
    assert text == (tmp_path / "speedruns.md").read_text()
    assert "| 0.9915 ± 0.0007 | 2 | 235 | 0.25 (0.2-0.3) |  | 3.0 | 12.3% | 0.3 |" in text
    assert "| 0.9915 ± 0.0007, not reached |" in text


def test_the_share_of_the_peak_is_over_all_seconds_of_training(speedruns: ModuleType) -> None:
    """100 steps of 4e12 operations in 2 s are 2e14 a second."""
    late = speedruns.Measured(1.4, 100, None, 2.0, 3.0)
    found = speedruns.times([late, late], 4 * 10**12, 1e15)
    assert found["share_of_peak"] == pytest.approx(0.2)
    assert "training" not in found
    assert found["whole"]["median"] == 3.0
    assert "share_of_peak" not in speedruns.times([late], 1, None)


def test_a_target_is_met_from_its_own_side(speedruns: ModuleType) -> None:
    accuracy, nats = speedruns.TARGETS["mnist"], speedruns.TARGETS["shakespeare"]
    assert [accuracy.meets(value) for value in (0.9899, 0.99, 0.991)] == [False, True, True]
    assert [nats.meets(value) for value in (1.48, 1.47, 1.46)] == [False, True, True]


def test_the_time_to_a_target_on_the_way_is_that_of_the_first_evaluation_that_meets_it(
    speedruns: ModuleType, tmp_path: Path
) -> None:
    """On Python's own reference text; without such an evaluation there is no time."""
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be that is the question " * 60)
    few = [
        "trainer.steps=6", "trainer.evaluate_steps=2", "trainer.batch_size=4", "data.context=16", "model.layers=1",
        "model.width=12", "trainer.device=cpu", f"data.path={text}", "precision=fp32",
    ]  # fmt: skip
    words = ["experiment=speedrun_shakespeare", *few]
    easy = speedruns.Target("", (), "val/loss", 100.0, False, "", 1, during=True)
    found = speedruns.one(easy, words)
    assert 0 <= found.training < found.whole
    assert found.steps == 6
    hard = speedruns.Target("", (), "val/loss", 0.0, False, "", 1, during=True)
    assert speedruns.one(hard, words).training is None


def test_operations_are_those_of_the_formulas(speedruns: ModuleType, shared_data: Path) -> None:
    """2 x 784 x 10 of a perceptron, forward and for the weights' gradient; nanoGPT's setting: 5.8e15 in 5,000 steps."""
    perceptron = check(compose(["data=mnist", "model=perceptron", "trainer.batch_size=32"]))
    assert speedruns.step_operations(perceptron) == 2 * 2 * 784 * 10 * 32
    path = shared_data / "tinyshakespeare" / "input.txt"
    transformer = check(compose(["experiment=speedrun_shakespeare", f"data.path={path}"]))
    assert 5000 * speedruns.step_operations(transformer) == pytest.approx(5.8e15, rel=0.1)


def test_an_unknown_target_is_refused(speedruns: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speedruns.py", "imagenet"])
    with pytest.raises(SystemExit, match="2"):
        speedruns.parsed()


def test_the_experiments_are_the_known_settings(shared_data: Path) -> None:
    """nanoGPT's train_shakespeare_char: 10.65 million weights and the biases of 6 layers, 384 wide."""
    words = ["experiment=speedrun_shakespeare", f"data.path={shared_data}/tinyshakespeare/input.txt"]
    experiment = check(compose(words))
    settings = experiment.settings
    assert (settings.steps, settings.batch_size, settings.clip_norm) == (5000, 64, 1.0)
    assert experiment.facts.input_shape == (256,)
    assert sum(p.numel() for p in experiment.model().parameters()) == pytest.approx(10.7e6, rel=0.01)
    for name in ("mnist", "fashion_mnist"):
        assert check(compose([f"experiment=speedrun_{name}"])).facts.sizes == {"train": 60000, "val": 0, "test": 10000}


@pytest.mark.parametrize("word", ["model.width=0", "model.width=64 model.depth=18"])
def test_a_width_that_means_nothing_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.width"):
        check(compose(["experiment=speedrun_fashion_mnist", *word.split()]))

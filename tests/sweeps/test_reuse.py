"""What is done is not done again, and nothing else passes for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlrun.build import Experiment, check
from dlrun.config import compose
from dlrun.data.sklearn_sets import Digits
from dlrun.identity import experiment_key
from dlrun.sweeps.reuse import Finished
from dlrun.tracking.run_directory import RunDirectory
from quiet import SHORT, train_short

NAME = "2026-11-20/100000-mlp-adam-aaaa"


def experiment(*words: str) -> Experiment:
    return check(compose([*SHORT, *words]))


def finished(root: Path, of: Experiment, name: str = NAME, **changes: Any) -> Path:
    """A run directory as training such an experiment leaves it, as far as reuse reads it."""
    path = root / name
    path.mkdir(parents=True)
    data = {"name": of.facts.name, "fingerprint": of.data.load().fingerprint}
    record = {"status": "done", "key": experiment_key(of), "data": data, "metrics": {"val/accuracy": 0.9}}
    (path / "run.json").write_text(json.dumps(record | changes))
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Digits]:
    """The data sets that were loaded."""
    seen: list[Digits] = []
    load: Callable[[Digits], Any] = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: (seen.append(self), load(self))[1])
    return seen


def test_an_equal_run_is_found(tmp_path: Path) -> None:
    path = finished(tmp_path, experiment())
    assert Finished(tmp_path).find(experiment()) == path
    assert Finished(tmp_path).find(experiment("trainer.workers=1", "trainer.threads=1", "tracking.every=7")) == path


def test_a_real_run_is_found(tmp_path: Path) -> None:
    path = train_short(tmp_path).path
    RunDirectory.open(path).write_record(key=experiment_key(experiment()))
    assert Finished(tmp_path).find(experiment()) == path
    assert Finished(tmp_path).find(experiment("trainer.seed=1")) is None


def test_a_trial_of_another_sweep_is_found(tmp_path: Path) -> None:
    path = finished(tmp_path, experiment(), "2026-11-20/100000-sweep-mlp-aaaa/0003-seed0")
    assert Finished(tmp_path).find(experiment()) == path


@pytest.mark.parametrize(
    "word",
    [
        "optimizer.lr=0.5",
        "trainer.seed=1",
        "optimizer=sgd",
        "model.hidden=[17]",
        "activation=tanh",
        "trainer.limit.train=0.5",
    ],
)
def test_another_configuration_is_not_found(tmp_path: Path, word: str) -> None:
    finished(tmp_path, experiment())
    assert Finished(tmp_path).find(experiment(word)) is None


def test_another_code_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path, experiment())
    monkeypatch.setattr("dlrun.identity.source_digest", lambda package, **_: "edited")
    assert Finished(tmp_path).find(experiment()) is None


def test_another_data_file_is_not_found(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{i % 7},{(i * i) % 11},{i % 3}" for i in range(90)]
    table.write_text("\n".join(["a,b,y", *rows]) + "\n")
    words = ("data=csv", f"data.path={table}", "data.target=y")
    path = finished(tmp_path, experiment(*words))
    assert Finished(tmp_path).find(experiment(*words)) == path
    table.write_text("\n".join(["a,b,y", *rows[:-1], "6,10,0"]) + "\n")
    assert Finished(tmp_path).find(experiment(*words)) is None
    now = experiment(*words)
    table.unlink()
    assert Finished(tmp_path).find(now) is None, "the trial itself says what is wrong with its data"


def test_a_value_from_the_environment_counts_and_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(SHORT)
    config.optimizer.lr = "${oc.decode:${oc.env:MY_RATE}}"
    monkeypatch.setenv("MY_RATE", "0.0123456")
    path = finished(tmp_path, check(config))
    assert "0123456" not in (path / "run.json").read_text()
    assert Finished(tmp_path).find(check(config)) == path
    assert Finished(tmp_path).find(experiment("optimizer.lr=0.0123456")) == path
    monkeypatch.setenv("MY_RATE", "0.5")
    assert Finished(tmp_path).find(check(config)) is None


@pytest.mark.parametrize(
    "changes",
    [
        *({"status": status} for status in ("running", "interrupted", "failed", "diverged", "pruned")),
        {"metrics": {}},
        {"metrics": None},
        {"key": None},
        {"key": ["unhashable"]},
        {"data": {"name": "digits"}},
        {"data": "digits"},
    ],
    ids=str,
)
def test_what_did_not_end_well_is_never_reused(tmp_path: Path, changes: dict[str, Any]) -> None:
    finished(tmp_path, experiment(), **changes)
    assert Finished(tmp_path).find(experiment()) is None


def test_a_run_that_was_removed_damaged_or_gone_on_with_since_is_not_found(tmp_path: Path) -> None:
    paths = [finished(tmp_path, experiment(), f"2026-11-20/10000{i}-mlp-adam-aaaa") for i in range(4)]
    index = Finished(tmp_path)
    assert index.find(experiment()) == paths[3], "the newest"
    RunDirectory(paths[3]).write_record(status="running")
    assert index.find(experiment()) == paths[2]
    (paths[2] / "run.json").unlink()
    assert index.find(experiment()) == paths[1]
    RunDirectory(paths[1]).write_record(key="of other values")
    assert index.find(experiment()) == paths[0]
    (paths[0] / "run.json").write_text('{"status": "do')
    assert index.find(experiment()) is None


def test_what_finishes_later_is_taken_in(tmp_path: Path) -> None:
    index = Finished(tmp_path)
    path = finished(tmp_path, experiment(), metrics={"val/accuracy": "NaN"})
    assert index.find(experiment()) is None
    index.add(path)
    assert index.find(experiment()) == path
    assert math.isnan(RunDirectory(path).record()["metrics"]["val/accuracy"])
    index.add(tmp_path / "absent")
    failed = finished(tmp_path, experiment(), "2026-11-20/110000-mlp-adam-aaaa", status="failed")
    index.add(failed)
    assert index.find(experiment()) == path


def test_data_are_loaded_for_a_candidate_alone_and_once(tmp_path: Path, loads: list[Digits]) -> None:
    first, second = experiment(), experiment("trainer.seed=1")
    finished(tmp_path, first)
    finished(tmp_path, second, "2026-11-20/100001-mlp-adam-bbbb")
    loads.clear()
    index = Finished(tmp_path)
    assert index.find(experiment("trainer.seed=2")) is None
    assert loads == []
    assert index.find(first)
    assert index.find(second)
    assert len(loads) == 1

"""Sweep directories: made, held, found, and summed up in a row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dlrun.errors import ConfigError, LockedError, StorageError
from dlrun.tracking.run_directory import RunDirectory, list_runs
from dlrun.tracking.sweep_directory import SweepDirectory, list_sweeps


def made(root: Path, **values: Any) -> SweepDirectory:
    sweep = SweepDirectory.create(root, "mlp-adam")
    sweep.write_json(**values)
    return sweep


def trial(sweep: SweepDirectory, number: int, seed: int, **record: Any) -> RunDirectory:
    run = RunDirectory.at(sweep.trial(number, seed), "mlp-adam")
    run.write_record(**{"status": "done", "data": {"name": "digits"}, "model": "mlp", "optimizer": "adam", **record})
    return run


def row(root: Path) -> dict[str, Any]:
    (found,) = list_sweeps(root, list_runs(root))
    return found


def test_a_new_sweep(tmp_path: Path) -> None:
    sweep = SweepDirectory.create(tmp_path / "outputs", "MLP + Adam")
    assert sweep.path.match("outputs/????-??-??/??????-sweep-mlp-adam-????")
    assert sweep.path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match=r"is not a sweep: it has no sweep\.json"):
        SweepDirectory.open(sweep.path)
    sweep.write_json(metric="val/accuracy", nan=float("nan"))
    values = SweepDirectory.open(sweep.path).read_json()
    assert (values["name"], values["metric"]) == (sweep.name, "val/accuracy")
    assert values["created"][:10] == sweep.path.parent.name
    assert not list(sweep.path.glob(".tmp-*"))
    with pytest.raises(ConfigError, match="is a sweep already; go on with it: dlrun sweep --resume"):
        sweep.write_json(metric="val/loss")
    assert sweep.read_json()["metric"] == "val/accuracy"
    with pytest.raises(ConfigError, match="it is no folder"):
        SweepDirectory.open(tmp_path / "absent")


def test_two_sweeps_of_one_second_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter("aaaa" + "aaaa" + "bbbb")
    monkeypatch.setattr("dlrun.tracking.folders.secrets.choice", lambda _: next(letters))
    monkeypatch.setattr("dlrun.tracking.folders.datetime", Stopped)
    first, second = SweepDirectory.create(tmp_path, "a"), SweepDirectory.create(tmp_path, "a")
    assert (first.name, second.name) == ("100000-sweep-a-aaaa", "100000-sweep-a-bbbb")


class Stopped:
    """A clock that stands still."""

    @classmethod
    def now(cls) -> Any:
        from datetime import datetime

        return datetime(2026, 11, 20, 10)


def test_an_unwritable_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot make a sweep in .*--outputs DIR"):
        SweepDirectory.create(tmp_path / "file" / "outputs", "a")


def test_names_of_what_it_holds(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    assert sweep.trial(3, 1).name == "0003-seed1"
    assert sweep.trial(12345, 10).name == "12345-seed10"
    held = (sweep.configs, sweep.study, sweep.report, sweep.points_table, sweep.trials_table)
    assert [path.name for path in held] == ["configs", "study.db", "report.html", "points.csv", "trials.csv"]
    for number, seed in [(10000, 0), (2, 10), (2, 9)]:
        trial(sweep, number, seed)
    sweep.configs.mkdir()
    assert list(sweep.trials()) == [(2, 9), (2, 10), (10000, 0)]
    assert sweep.trials()[2, 9] == sweep.trial(2, 9)


def test_one_master_holds_it(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    left = sweep.path / ".tmp-status.json-0123"
    left.write_text("")
    sweep.lock()
    assert not left.exists(), "what a killed master left is removed"
    child = os.fork()
    if child == 0:
        try:
            SweepDirectory(sweep.path).lock()
        except LockedError as error:
            os._exit(3 if f"the sweep {sweep.path} is in the hands of process {os.getppid()}" in str(error) else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert sweep.is_held()
    sweep.unlock()
    assert not sweep.is_held()


def test_the_status_is_that_of_its_master(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    assert sweep.status() == {"status": "crashed"}, "killed before it began"
    sweep.lock()
    assert sweep.status()["status"] == "running"
    sweep.write_status("running", planned=3)
    sweep.unlock()
    assert sweep.status() == {"status": "crashed", "planned": 3}
    sweep.lock()
    sweep.write_status("done", done=3)
    sweep.unlock()
    assert sweep.status() == {"status": "done", "planned": 3, "done": 3}
    (sweep.path / "status.json").write_text('{"stat')
    assert sweep.status()["status"] == "crashed"


def test_a_sweep_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="holds no sweeps; `dlrun sweep` makes one"):
        SweepDirectory.find("last", tmp_path)
    for name, created in [("20/100000-sweep-mlp-aaaa", "10:00:00.7"), ("20/100000-sweep-cnn-bbbb", "10:00:00.2")]:
        path = tmp_path / f"2026-11-{name}"
        path.mkdir(parents=True)
        (path / "sweep.json").write_text(json.dumps({"created": f"2026-11-20T{created}"}))
    newest = tmp_path / "2026-11-20" / "100000-sweep-mlp-aaaa"
    for text in ("last", "mlp", "aaaa", "100000-sweep-mlp-aaaa/", "2026-11-20/100000-sweep-mlp-aaaa", str(newest)):
        assert SweepDirectory.find(text, tmp_path).path == newest
    monkeypatch.chdir(newest.parent)
    assert SweepDirectory.find("100000-sweep-mlp-aaaa", tmp_path / "absent").path == newest
    for text, message in [
        ("100000", "is part of 2 sweeps: 100000-sweep-"),
        ("100000-sweep-mlp-aaab", "the nearest names are 100000-sweep-mlp-aaaa"),
        ("?", "there are 100000-sweep-"),
        ("", "there is no sweep ''"),
    ]:
        with pytest.raises(ConfigError, match=message):
            SweepDirectory.find(text, tmp_path)


def test_the_last_sweep_is_one_that_was_begun(tmp_path: Path) -> None:
    for name in ("100000-sweep-mlp-aaaa", "110000-sweep-mlp-bbbb"):
        (tmp_path / "2026-11-20" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"has no sweep\.json"):
        SweepDirectory.find("last", tmp_path)
    (tmp_path / "2026-11-20" / "100000-sweep-mlp-aaaa" / "sweep.json").write_text("{}")
    assert SweepDirectory.find("last", tmp_path).name == "100000-sweep-mlp-aaaa"


def test_a_row_of_a_sweep_that_runs(tmp_path: Path) -> None:
    sweep = made(tmp_path, metric="val/accuracy", higher_is_better=True, seeds=[0, 1], planned=30)
    for number, seed, value in [(0, 0, 0.9), (0, 1, 0.8), (1, 0, 0.88), (1, 1, 0.86), (2, 0, 0.99)]:
        trial(sweep, number, seed, best={"metric": "val/accuracy", "value": value, "step": 1})
    trial(sweep, 2, 1, status="diverged", best={"metric": "val/accuracy", "value": 1.0})
    trial(sweep, 3, 0, status="pruned", model="cnn")
    trial(sweep, 4, 0, status="interrupted", model="cnn")
    sweep.lock()
    found = row(tmp_path)
    sweep.unlock()
    assert (found["kind"], found["name"], found["status"]) == ("sweep", sweep.name, "running")
    assert found["points"] == {"done": 4, "planned": 30}
    assert found["trials"] == {"done": 5, "diverged": 1, "pruned": 1, "interrupted": 1}
    assert found["best"] == {"metric": "val/accuracy", "value": pytest.approx(0.87)}, "of point 2 one seed diverged"
    assert found["metrics"] == {"val/accuracy": pytest.approx(0.87)}
    assert (found["data"], found["model"], found["optimizer"]) == ({"name": "digits"}, "cnn, mlp", "adam")
    assert row(tmp_path)["status"] == "crashed"


def test_a_row_has_means_over_seeds_and_knows_the_direction(tmp_path: Path) -> None:
    sweep = made(tmp_path, metric="val/mse", higher_is_better=False, seeds=[0, 1])
    for number, seed, value in [(0, 0, 0.1), (0, 1, 0.5), (1, 0, 0.2), (1, 1, 0.3), (2, 0, float("nan"))]:
        trial(sweep, number, seed, metrics={"val/mse": value}, best=None)
    found = row(tmp_path)
    assert found["best"]["value"] == pytest.approx(0.25)
    assert found["points"] == {"done": 2, "planned": None}


def test_points_that_lack_a_seed_rank_after_whole_ones_as_in_the_table(tmp_path: Path) -> None:
    sweep = made(tmp_path, metric="val/accuracy", higher_is_better=True, seeds=[0, 1])
    trial(sweep, 0, 0, metrics={"val/accuracy": 0.9})
    trial(sweep, 1, 0, metrics={"val/accuracy": 0.8})
    assert row(tmp_path)["best"]["value"] == 0.9, "none is whole yet"
    trial(sweep, 1, 1, metrics={"val/accuracy": 0.5})
    assert row(tmp_path)["best"]["value"] == pytest.approx(0.65)


def test_a_row_of_a_sweep_that_is_over_says_what_its_master_wrote(tmp_path: Path) -> None:
    sweep = made(tmp_path, planned=None)
    sweep.lock()
    sweep.write_status("done", done=7, planned=8, best={"metric": "val/r2", "value": 0.5}, seconds=61.0)
    sweep.unlock()
    found = row(tmp_path)
    assert (found["status"], found["points"], found["seconds"]) == ("done", {"done": 7, "planned": 8}, 61.0)
    assert found["metrics"] == {"val/r2": 0.5}


def test_a_broken_sweep_hides_nothing(tmp_path: Path) -> None:
    good = made(tmp_path)
    broken = made(tmp_path)
    trial(broken, 0, 0)
    trial(broken, 1, 0).path.joinpath("run.json").write_text("{")
    (broken.path / "sweep.json").write_text("[")
    rows = {found["name"]: found for found in list_sweeps(tmp_path, list_runs(tmp_path))}
    assert rows[good.name]["status"] == "crashed"
    assert rows[broken.name]["status"] == "unreadable"
    assert "sweep.json cannot be read" in rows[broken.name]["error"]
    assert rows[broken.name]["trials"] == {"done": 1, "unreadable": 1}

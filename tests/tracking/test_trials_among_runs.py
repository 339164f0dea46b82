"""Trials of sweeps, listed and found as the runs they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlrun.errors import ConfigError
from dlrun.tracking.run_directory import find_run, list_runs, list_trials


def planted(root: Path, name: str, **record: object) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"status": "done", **record}))
    return path


@pytest.fixture
def sweeps(tmp_path: Path) -> Path:
    """A run and two sweeps, the first of which still ran when the second was over."""
    planted(tmp_path, "2026-11-20/100000-mlp-aaaa")
    for sweep, name, day, second in [
        ("100001-sweep-mlp-bbbb", "0000-seed0", 20, "10:00:02"),
        ("100001-sweep-mlp-bbbb", "0001-seed0", 22, "00:00:00"),
        ("090000-sweep-cnn-cccc", "0000-seed0", 21, "09:00:01"),
        ("090000-sweep-cnn-cccc", "0000-seed10", 21, "09:00:02"),
        ("090000-sweep-cnn-cccc", "0000-seed2", 21, "09:00:03"),
    ]:
        date = "2026-11-20" if sweep.endswith("bbbb") else "2026-11-21"
        planted(tmp_path, f"{date}/{sweep}/{name}", created=f"2026-11-{day}T{second}.000001+00:00", sweep={"point": 99})
        (tmp_path / date / sweep / "sweep.json").write_text("{}")
    return tmp_path


def test_trials_are_runs(sweeps: Path) -> None:
    records = list_runs(sweeps)
    assert [record["name"] for record in records] == [
        "100000-mlp-aaaa",
        "100001-sweep-mlp-bbbb/0000-seed0",
        "090000-sweep-cnn-cccc/0000-seed0",
        "090000-sweep-cnn-cccc/0000-seed10",
        "090000-sweep-cnn-cccc/0000-seed2",
        "100001-sweep-mlp-bbbb/0001-seed0",
    ]
    assert "sweep" not in records[0]
    assert records[5]["sweep"] == {"name": "100001-sweep-mlp-bbbb", "point": 1}
    trials = list_trials(sweeps / "2026-11-21" / "090000-sweep-cnn-cccc")
    assert [Path(record["path"]).name for record in trials] == ["0000-seed0", "0000-seed2", "0000-seed10"]


def test_a_trial_that_was_copied_out_is_a_run_like_others(sweeps: Path) -> None:
    (sweeps / "2026-11-21" / "090000-sweep-cnn-cccc" / "0000-seed2").rename(sweeps / "2026-11-21" / "kept")
    assert "sweep" not in next(record for record in list_runs(sweeps) if record["name"] == "kept")
    assert find_run("kept", sweeps) == sweeps / "2026-11-21" / "kept"


def test_a_trial_is_found(sweeps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = sweeps / "2026-11-20" / "100001-sweep-mlp-bbbb" / "0001-seed0"
    for text in (
        "0001-seed0",
        "0001",
        "100001-sweep-mlp-bbbb/0001-seed0",
        "bbbb/0001",
        "2026-11-20/100001-sweep-mlp-bbbb/0001-seed0/",
        str(trial),
        "last",
    ):
        assert find_run(text, sweeps) == trial, text
    monkeypatch.chdir(trial.parent)
    assert find_run("0001-seed0", sweeps / "absent") == trial


def test_last_is_the_newest_run_or_trial(sweeps: Path) -> None:
    newest = planted(sweeps, "2026-11-22/000001-mlp-dddd")
    assert find_run("last", sweeps) == newest


def test_a_run_is_preferred_to_a_sweep_of_the_same_name(sweeps: Path) -> None:
    assert find_run("mlp", sweeps) == sweeps / "2026-11-20" / "100000-mlp-aaaa"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0000-seed0", "is part of 2 runs: 090000-sweep-cnn-cccc/0000-seed0, 100001-sweep-mlp-bbbb/0000-seed0; give"),
        ("cccc", "is the sweep 090000-sweep-cnn-cccc, not a run: name one of its 3 trials, such as 090000-sweep-cnn-"),
        ("2026-11-21/090000-sweep-cnn-cccc", r"such as .*/0000-seed0 \(dlrun runs --sweep 090000-sweep-cnn-cccc\)"),
        ("0001-seed1", "the nearest names are 100001-sweep-mlp-bbbb/0001-seed0"),
        ("090000-sweep-cnn-cccc/0009-seed0", "the nearest names are 090000-sweep-cnn-cccc/0000-seed0"),
    ],
)
def test_no_trial_or_several_are_named(sweeps: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_run(text, sweeps)


def test_the_folder_of_a_sweep_is_no_run(sweeps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is the sweep 100001-sweep-mlp-bbbb"):
        find_run(str(sweeps / "2026-11-20" / "100001-sweep-mlp-bbbb"), sweeps)
    empty = sweeps / "2026-11-23" / "080000-sweep-x-eeee"
    empty.mkdir(parents=True)
    with pytest.raises(ConfigError, match="it has no trials yet"):
        find_run("eeee", sweeps)

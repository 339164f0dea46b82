"""Run directories: made, named, recorded, found and listed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from dlrun.errors import ConfigError, LockedError, StorageError
from dlrun.tracking.run_directory import RunDirectory, find_run, list_runs, outputs_root


def planted(root: Path, name: str, **record: object) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"status": "done", **record}))
    return path


def test_a_new_run_has_its_folders_and_its_record(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "outputs", "CNN + Adam")
    assert run.path.match("outputs/????-??-??/??????-cnn-adam-????")
    assert run.path.stat().st_mode & 0o777 == 0o700
    for folder in (run.checkpoints, run.tensorboard, run.plots, run.predictions, run.export):
        assert folder.is_dir()
        assert folder.parent == run.path
    assert {run.config.name, run.history.name} == {"config.yaml", "history.jsonl"}
    record = run.record()
    assert (record["name"], record["label"], record["status"]) == (run.name, "CNN + Adam", "running")
    assert RunDirectory.open(run.path).record() == record


def test_the_record_keeps_what_is_not_changed(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a")
    run.write_record(status="done", metrics={"test/loss": math.nan, "val/loss": math.inf}, data=Path("x"), shape=(1, 2))
    run.write_record(exit_code=0)
    record = run.record()
    assert (record["status"], record["exit_code"], record["data"], record["shape"]) == ("done", 0, "x", [1, 2])
    assert math.isnan(record["metrics"]["test/loss"])
    assert record["metrics"]["val/loss"] == math.inf
    json.loads((run.path / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert not list(run.path.glob(".tmp-*"))


def test_an_unwritable_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot make a run in .*: .*--outputs DIR") as caught:
        RunDirectory.create(tmp_path / "file" / "outputs", "a")
    assert caught.value.exit_code == 7


def test_what_is_no_run_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it has no run\.json"):
        RunDirectory.open(tmp_path)
    with pytest.raises(ConfigError, match="it is no folder"):
        RunDirectory.open(tmp_path / "absent")


def test_a_run_is_made_exactly_where_it_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "sweep" / "0003-seed1"
    run = RunDirectory.at(path, "MLP + Adam")
    record = run.record()
    assert (record["name"], record["label"], record["status"]) == ("0003-seed1", "MLP + Adam", "running")
    assert path.stat().st_mode & 0o777 == 0o700
    assert run.checkpoints.is_dir()
    run.lock()  # it is left free for the one who made it
    run.unlock()
    run.write_record(status="done")
    with pytest.raises(ConfigError, match=r"0003-seed1 is a run already; go on with it: dlrun resume"):
        RunDirectory.at(path, "other")
    assert run.record()["status"] == "done"


def test_a_run_cannot_be_made_where_another_process_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "0000-seed0"
    path.mkdir()
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        RunDirectory(path).lock()
        os.write(ready[1], b".")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(LockedError, match=str(child)):
        RunDirectory.at(path, "a")
    assert not (path / "run.json").exists()
    os.write(go_on[1], b".")
    os.waitpid(child, 0)
    assert RunDirectory.at(path, "a").record()["status"] == "running"


def test_a_run_cannot_be_made_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot"):
        RunDirectory.at(tmp_path / "file", "a")
    with pytest.raises(StorageError, match=r"cannot make a run in .*: Not a directory"):
        RunDirectory.at(tmp_path / "file" / "0000-seed0", "a")


def test_what_a_killed_maker_left_is_completed(tmp_path: Path) -> None:
    """The maker is killed before each of its system calls; the next one makes a whole run of what it finds."""
    calls = ("mkdir", "open", "write", "fsync", "replace", "ftruncate", "pwrite", "close")
    for count in range(1000):
        path = tmp_path / f"{count:04d}-seed0"
        child = os.fork()
        if child == 0:
            left = count

            def killed_at(call):
                def wrapper(*arguments, **named):
                    nonlocal left
                    if left == 0:
                        os._exit(9)
                    left -= 1
                    return call(*arguments, **named)

                return wrapper

            for name in calls:
                setattr(os, name, killed_at(getattr(os, name)))
            RunDirectory.at(path, "a")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == 9
        begun = (path / "run.json").exists()
        run = RunDirectory(path) if begun else RunDirectory.at(path, "a")
        assert run.record()["status"] == "running"
        assert all(folder.is_dir() for folder in (run.checkpoints, run.tensorboard, run.plots, run.export))
        assert begun or not list(path.glob(".tmp-*"))
    assert 15 < count < 999


def test_the_root_of_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert outputs_root(None) == tmp_path / "outputs"
    monkeypatch.setenv("DLRUN_OUTPUTS", str(tmp_path / "elsewhere"))
    assert outputs_root(None) == tmp_path / "elsewhere"
    assert outputs_root("here") == tmp_path / "here"


def test_a_run_is_found_by_last_by_path_and_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = planted(tmp_path, "2026-11-20/235959-mlp-adam-zzzz")
    later = planted(tmp_path, "2026-11-21/090000-cnn-adam-bbbb", created="2026-11-21T09:00:00.2")
    last = planted(tmp_path, "2026-11-21/090000-cnn-sgd-aaaa", created="2026-11-21T09:00:00.7")
    assert find_run("last", tmp_path) == last
    assert find_run("mlp", tmp_path) == old
    assert find_run("bbbb", tmp_path) == later
    assert find_run("2026-11-21/090000-cnn-adam-bbbb", tmp_path) == later
    monkeypatch.chdir(tmp_path / "2026-11-20")
    assert find_run("235959-mlp-adam-zzzz", tmp_path / "absent") == old
    assert find_run(str(later) + "/", tmp_path) == later


def test_an_exact_name_wins_over_a_longer_one(tmp_path: Path) -> None:
    short = planted(tmp_path, "2026-11-20/100000-mlp-aaaa")
    planted(tmp_path, "2026-11-20/100000-mlp-aaaa-copy")
    assert find_run("100000-mlp-aaaa", tmp_path) == short


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam", "is part of 2 runs: 100000-cnn-adam-bbbb, 100000-mlp-adam-aaaa"),
        ("100000-mlp-adan-aaaa", "the nearest names are 100000-mlp-adam-aaaa"),
        ("?", "there are 100000-"),
        ("", "there is no run ''"),
    ],
)
def test_no_run_or_several_are_named(tmp_path: Path, text: str, message: str) -> None:
    planted(tmp_path, "2026-11-20/100000-mlp-adam-aaaa")
    planted(tmp_path, "2026-11-21/100000-cnn-adam-bbbb")
    with pytest.raises(ConfigError, match=message):
        find_run(text, tmp_path)


def test_no_runs_at_all(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "absent") == []
    for text in ("last", "mlp"):
        with pytest.raises(ConfigError, match="holds no runs; `dlrun train` makes one"):
            find_run(text, tmp_path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="is not a run"):
        find_run(str(tmp_path / "folder"), tmp_path)


def test_broken_runs_never_hide_the_others(tmp_path: Path) -> None:
    planted(tmp_path, "2026-11-20/100000-good-aaaa", seed=3)
    planted(tmp_path, "2026-11-20/100001-list-aaaa").joinpath("run.json").write_text("[1]")
    planted(tmp_path, "2026-11-20/100002-torn-aaaa").joinpath("run.json").write_text('{"status": "do')
    planted(tmp_path, "2026-11-20/100003-bytes-aaaa").joinpath("run.json").write_bytes(b"\xff\xfe\0")
    planted(tmp_path, "2026-11-20/100004-deep-aaaa").joinpath("run.json").write_text("[" * 100_000)
    (tmp_path / "2026-11-20" / "100005-empty-aaaa").mkdir()
    pipe = planted(tmp_path, "2026-11-20/100006-pipe-aaaa") / "run.json"
    pipe.unlink()
    os.mkfifo(pipe)
    (tmp_path / "2026-11-20" / "100007-loop-aaaa").symlink_to("100007-loop-aaaa")
    (tmp_path / "2026-11-20" / "file").write_text("")
    (tmp_path / "2026-11-20" / "notes").mkdir()
    planted(tmp_path, "2026-11-20/100008-running-aaaa", status="running")
    records = list_runs(tmp_path)
    assert [record["status"] for record in records] == ["done", *["unreadable"] * 6, "crashed"]
    assert all("run.json cannot be read" in record["error"] for record in records[1:-1])
    assert records[0]["seed"] == 3
    assert records[0]["path"] == str(tmp_path / "2026-11-20" / "100000-good-aaaa")


def test_a_running_run_is_running_while_its_lock_is_held(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a")
    assert list_runs(tmp_path)[0]["status"] == "crashed"
    run.lock()
    assert list_runs(tmp_path)[0]["status"] == "running"
    run.unlock()


def test_many_runs_are_listed_in_order(tmp_path: Path) -> None:
    for number in range(300):
        planted(tmp_path, f"2026-11-{number % 20 + 1:02d}/{number:06d}-a", number=number)
    records = list_runs(tmp_path)
    assert len(records) == 300
    assert records == sorted(records, key=lambda record: record["path"])

"""The command as its user meets it: real sweeps of networks so small that starting processes takes most of the time."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ["data=iris", "model.hidden=[4]", "trainer.epochs=2", "tracking=minimal", "sweep.hang=2m"]


def dlrun(folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    """Run the command in a folder; its two streams."""
    command = [sys.executable, "-m", "dlrun", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished grid of two points and two seeds, each trial alone; and what was printed."""
    folder = tmp_path_factory.mktemp("grid")
    words = ["optimizer.lr=1e-3,1e-2", "seeds=2", "launcher=local", "--workers", "2"]
    out, _ = dlrun(folder, "sweep", *TINY, *words)
    return folder, out


def sweep_of(folder: Path) -> Path:
    [found] = (folder / "outputs").glob("*/*")
    return found


def test_a_grid_ends_with_a_table_files_and_the_best_command(grid: tuple[Path, str]) -> None:
    folder, out = grid
    sweep = sweep_of(folder)
    assert "4 trials of 2 points are checked" in out
    assert "[4/4]" in out
    assert "points, best first" in out
    assert f"dlrun train {TINY[0]}" in out
    trials = list(csv.DictReader((sweep / "trials.csv").read_text().splitlines()))
    assert sorted((row["number"], row["seed"]) for row in trials) == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert {row["status"] for row in trials} == {"done"}
    assert (sweep / "report.html").stat().st_size > 10_000
    points = list(csv.DictReader((sweep / "points.csv").read_text().splitlines()))
    assert [row["rank"] for row in points] == ["1", "2"]
    best = [float(row["value"]) for row in trials if row["number"] == points[0]["number"]]
    assert float(points[0]["mean"]) == pytest.approx(sum(best) / 2)


def test_each_trial_is_a_run_for_every_command(grid: tuple[Path, str]) -> None:
    folder, _ = grid
    shown, _ = dlrun(folder, "eval", "0001-seed1", "--json")
    assert json.loads(shown)["metrics"]
    record = json.loads((sweep_of(folder) / "0001-seed1" / "run.json").read_text())
    assert record["status"] == "done"
    assert record["sweep"]["point"] == 1
    listed, _ = dlrun(folder, "runs", "--sweep", "last")
    assert all(f"000{i}-seed{j}" in listed for i in (0, 1) for j in (0, 1))


def test_a_finished_sweep_has_nothing_to_go_on_with(grid: tuple[Path, str]) -> None:
    folder, _ = grid
    before = {path: path.stat().st_mtime_ns for path in sweep_of(folder).glob("*/history.jsonl")}
    out, _ = dlrun(folder, "sweep", "--resume", "last", "--json")
    assert {point["state"] for point in json.loads(out)["points"]} == {"done"}
    assert {path: path.stat().st_mtime_ns for path in sweep_of(folder).glob("*/history.jsonl")} == before


def test_what_is_done_is_taken_over_and_the_rest_is_packed(grid: tuple[Path, str]) -> None:
    folder, _ = grid
    words = ["optimizer.lr=1e-3,3e-3", "seeds=2", "launcher=packed", "--json", "--outputs", "outputs"]
    out, _ = dlrun(folder, "sweep", *TINY, *words)
    points = json.loads(out)["points"]
    reused = {point["values"]["optimizer.lr"]: [t["reused"] for t in point["trials"]] for point in points}
    assert reused == {"0.001": [True, True], "0.003": [False, False]}
    sweep = max((folder / "outputs").glob("*/*"))
    records = [json.loads(path.read_text()) for path in sweep.glob("*/run.json")]
    assert [record["packed"] for record in records] == [2, 2]
    assert all((path / "checkpoints" / "best.ckpt").is_file() for path in sweep.glob("0*"))
    shutil.rmtree(sweep)  # the module's other tests expect one sweep


def test_a_dry_run_prints_the_points_and_makes_nothing(tmp_path: Path) -> None:
    out, _ = dlrun(tmp_path, "sweep", *TINY, "optimizer.lr=1e-3,1e-2", "seeds=3", "--dry-run")
    assert "optimizer.lr=0.001" in out
    assert "2 points x 3 seeds = 6 trials" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizer.lr=1e-3,-1"], "point 1 (optimizer.lr=-1): optimizer: Invalid learning rate: -1"),
        (["optimizer.lrr=1,2"], "optimizer.lrr: 'optimizer' has no key 'lrr'; did you mean 'lr'?"),
        (["optimizer.lr=interval(1e-4,1e-1)"], "is an interval, which has no grid"),
        ([], "wants something to sweep"),
        (["--resume", "nothing"], "there is no sweep 'nothing'"),
    ],
    ids=["value", "key", "interval", "nothing", "resume"],
)
def test_a_mistake_is_found_before_anything_is_made(tmp_path: Path, words: list[str], sentence: str) -> None:
    _, err = dlrun(tmp_path, "sweep", *words, code=2)
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_fails_is_told_and_ends_the_sweep_with_1(tmp_path: Path) -> None:
    words = ["optimizer=sgd", "optimizer.lr=0.1,1e30", "data=diabetes", "launcher=local"]
    out, err = dlrun(tmp_path, "sweep", *TINY[1:], *words, code=1)
    assert "1 of 2 trials failed" in err
    assert "diverged" in out


def test_a_sweep_with_code_of_its_own_goes_on_only_when_that_is_trusted_again(grid: tuple[Path, str]) -> None:
    folder, _ = grid
    about = sweep_of(folder) / "sweep.json"
    before = about.read_text()
    about.write_text(json.dumps(json.loads(before) | {"trusted": ["mypkg"]}))
    try:
        _, err = dlrun(folder, "sweep", "--resume", "last", code=9)
        assert "only you can admit" in err
        assert "'trust=[mypkg]'" in err
        dlrun(folder, "sweep", "--resume", "last", "trust=[mypkg]")
    finally:
        about.write_text(before)


def test_a_sweep_goes_on_from_anywhere_and_under_another_name(grid: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = grid
    sweep = sweep_of(folder)
    moved = sweep.with_name("another-name")
    sweep.rename(moved)
    try:
        out, _ = dlrun(tmp_path, "sweep", "--resume", str(moved), "--workers", "1", "--json")
        assert {point["state"] for point in json.loads(out)["points"]} == {"done"}
        out, _ = dlrun(tmp_path, "sweep", "--resume", str(moved), "--dry-run")
        assert "2 of 2 points have ended" in out
        _, err = dlrun(tmp_path, "sweep", "--resume", str(moved), "--again", code=2)
        assert "--again is for a new sweep" in err
    finally:
        moved.rename(sweep)


def test_a_stranger_s_sweep_reaches_nothing_outside(grid: tuple[Path, str]) -> None:
    folder, _ = grid
    about = sweep_of(folder) / "sweep.json"
    before = about.read_text()
    content = json.loads(before)
    content["settings"]["storage"] = "postgresql://nobody@127.0.0.1:1/${oc.env:HOME}"
    about.write_text(json.dumps(content))
    try:
        _, err = dlrun(folder, "sweep", "--resume", "last", code=9)
        assert "was not begun by you" in err
    finally:
        about.write_text(before)


@pytest.mark.parametrize("words", [["sweep"], ["train", "--multirun"]])
@pytest.mark.parametrize("around", ["torchrun", "srun"])
def test_a_sweep_in_each_of_several_processes_is_refused(
    words: list[str], around: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dlrun.cli.main import main

    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    srun = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
    for name, value in (torchrun if around == "torchrun" else srun | {"SLURM_JOB_NODELIST": "a"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert main([*words, *TINY, "seeds=2"]) == 2
    assert "each would do the whole sweep" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()

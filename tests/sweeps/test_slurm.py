"""Workers in Slurm without a Slurm: its answers are played by small scripts. test_servers.py has a real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlrun.errors import ConfigError
from dlrun.sweeps.launchers import make_launcher, slurm
from dlrun.sweeps.launchers.slurm import SlurmLauncher, SlurmWorkers
from dlrun.sweeps.launchers.slurm_queue import own_task
from launcher_cases import command, notes, wait_until

# Slurm, played by scripts that print what a file says and note how they were called


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the front of the path with Slurm's programs; each prints PROGRAM.says, each call is in ``calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >>{folder}/calls\n. {folder}/{name}.says\n')
        script.chmod(0o755)
        (folder / f"{name}.says").write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_ASK_SECONDS", 0.0)
    return folder


def says(programs: Path, name: str, *lines: str) -> None:
    (programs / f"{name}.says").write_text("".join(f"echo '{line}'\n" for line in lines))


def array(folder: Path, count: int = 2, keep: bool = False) -> SlurmWorkers:
    folder.mkdir(exist_ok=True)
    return SlurmWorkers([f"7_{number}" for number in range(count)], folder, keep)


def test_slurm_tells_who_is_alive(programs: Path, tmp_path: Path) -> None:
    workers = array(tmp_path / "logs", count=4)
    says(programs, "squeue", "7_0|RUNNING|None", "7_1|PENDING|Resources", "7_2|COMPLETING|None", "7_3|COMPLETED|None")
    (tmp_path / "logs" / "7_3.exit").write_text("0")
    assert workers.alive() == 3
    assert workers.problems() == []
    assert "--jobs=7 " in (programs / "calls").read_text().replace("\n", " ")


def test_slurm_is_not_asked_too_often(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_ASK_SECONDS", 5.0)
    now = [100.0]
    workers = SlurmWorkers(["7_0"], tmp_path, False, clock=lambda: now[0])
    for now[0] in (100.0, 101.0, 104.0, 105.0):
        workers.alive()
        workers.problems()
    assert (programs / "calls").read_text().count("squeue") == 2


def test_a_slurm_that_does_not_answer_is_not_the_end_of_the_workers(programs: Path, tmp_path: Path) -> None:
    workers = array(tmp_path / "logs")
    (programs / "squeue.says").write_text("echo 'Unable to contact slurm controller' >&2; exit 1")
    assert workers.alive() is None
    assert workers.problems() == []
    says(programs, "squeue", "7_0|RUNNING|None", "7_1|RUNNING|None")
    assert workers.alive() == 2


def test_jobs_that_slurm_has_forgotten_have_ended(programs: Path, tmp_path: Path) -> None:
    workers = array(tmp_path / "logs")
    (tmp_path / "logs" / "7_0.exit").write_text("0")
    (programs / "squeue.says").write_text("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert workers.alive() == 0
    assert ["ended without a word" in line for line in workers.problems()] == [True]


def test_endings_are_told_by_what_the_worker_wrote_down(programs: Path, tmp_path: Path) -> None:
    workers = array(tmp_path / "logs", count=3)
    says(programs, "squeue", "7_0|FAILED|NonZeroExitCode", "7_1|OUT_OF_MEMORY|None", "7_2|PENDING|BadConstraints")
    (tmp_path / "logs" / "7_0.exit").write_text("5")
    first, second, third = workers.problems()
    assert first.startswith("worker 1 ended with exit code 5")
    assert second.startswith("worker 2 ended without a word, Slurm says OUT_OF_MEMORY")
    assert third == "worker 3 cannot start, Slurm says BadConstraints: see scontrol show job 7_2"


def test_a_task_that_is_queued_again_is_alive_again(programs: Path, tmp_path: Path) -> None:
    workers = array(tmp_path / "logs", count=1)
    says(programs, "squeue", "7_0|PREEMPTED|None")
    assert workers.alive() == 0
    says(programs, "squeue", "7_0|PENDING|BeginTime")
    assert workers.alive() == 1
    assert workers.problems() == []


@pytest.mark.parametrize("keep", [False, True])
def test_cancelling(programs: Path, tmp_path: Path, keep: bool) -> None:
    workers = array(tmp_path / "logs", keep=keep)
    workers.cancel()
    workers.cancel()
    calls = (programs / "calls").read_text() if (programs / "calls").exists() else ""
    assert calls == ("" if keep else "scancel 7_0 7_1\n")
    says(programs, "squeue", "7_0|CANCELLED|None", "7_1|CANCELLED|None")
    assert bool(workers.problems()) is keep


def test_a_refusal_of_sbatch_is_one_sentence(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (programs / "sbatch.says").write_text("echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"^Slurm does not take the workers: invalid partition specified: gpu$"):
        SlurmLauncher({"partition": "gpu"}, command("exit")).start(tmp_path, 2)


def test_what_is_submitted(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    says(programs, "sbatch", "Submitted batch job 7")
    given = {"partition": "gpu", "gpus": 1, "cpus": 4, "memory": 1.5, "time": "3", "setup": ["module load cuda"]}
    launcher = SlurmLauncher({**given, "sbatch": {"reservation": "course"}, "requeue": False}, command("exit"))
    assert launcher.start(tmp_path / "sweep", 3).jobs == ("7_0", "7_1", "7_2")
    (script,) = (tmp_path / "sweep" / "slurm").glob("*_submission.sh")
    lines = script.read_text().splitlines()
    wanted = "array=0-2%3 cpus-per-task=4 gpus-per-node=1 job-name=sweep mem=1536M partition=gpu reservation=course"
    wanted += " signal=USR2@60 time=3 no-requeue"
    assert {f"#SBATCH --{word}" for word in wanted.split()} <= set(lines)
    assert "module load cuda" in lines
    assert not [line for line in lines if "wckey" in line]


def test_without_a_limit_slurm_is_told_of_none(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    says(programs, "sbatch", "Submitted batch job 7")
    SlurmLauncher({}, command("exit")).start(tmp_path / "sweep", 1)
    (script,) = (tmp_path / "sweep" / "slurm").glob("*_submission.sh")
    assert "--time" not in script.read_text()


def test_a_later_master_submits_only_what_is_missing(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    says(programs, "sbatch", "Submitted batch job 7")
    launcher = SlurmLauncher({}, command("exit"))
    assert launcher.start(tmp_path, 3).jobs == ("7_0", "7_1", "7_2")
    says(programs, "squeue", "7_0|RUNNING|None", "7_1|FAILED|None", "7_2|PENDING|Priority")
    says(programs, "sbatch", "Submitted batch job 8")
    assert launcher.start(tmp_path, 3).jobs == ("7_0", "7_2", "8")
    assert json.loads((tmp_path / "slurm" / "jobs.json").read_text()) == ["7_0", "7_2", "8"]


def test_a_slurm_that_is_down_is_told_before_the_sweep_begins(programs: Path) -> None:
    pytest.importorskip("submitit")
    (programs / "squeue.says").write_text("exit 1")
    with pytest.raises(ConfigError, match="does not answer"):
        make_launcher("slurm", {})


def test_the_own_name_of_a_task() -> None:
    job = {"SLURM_JOB_ID": "9"}
    assert own_task(job) == "9"
    assert own_task({**job, "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "1"}) == "9_1"


# What runs on a node of Slurm

NODE = """
import pathlib, sys
from launcher_cases import command
from dlrun.sweeps.launchers.slurm import Worker
folder = pathlib.Path(sys.argv[1])
Worker(tuple(command(*sys.argv[2:])(folder)), folder, 1, folder, True)()
"""


def node(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """The wrapper around a worker, as one task of Slurm."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "SLURM_JOB_ID": "9"}
    return subprocess.Popen([sys.executable, "-c", NODE, str(folder), *words], env=environment)


def calls(programs: Path) -> list[str]:
    file = programs / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_a_task_ends_as_its_worker_does(programs: Path, tmp_path: Path) -> None:
    assert node(tmp_path, "exit", "5").wait() == 5
    assert (tmp_path / "9.exit").read_text() == "5"
    assert calls(programs) == []


def test_a_task_whose_time_runs_out_saves_and_queues_again(programs: Path, tmp_path: Path) -> None:
    says(programs, "squeue", "RUNNING")
    task = node(tmp_path, "wait")
    wait_until(lambda: len(notes(tmp_path, "started")) == 1, "the worker to start")
    task.send_signal(signal.SIGUSR2)
    assert task.wait() == 143
    assert len(notes(tmp_path, "saved")) == 1
    assert calls(programs)[-1] == "scontrol requeue 9"
    assert not (tmp_path / "9.exit").exists()


def test_a_task_that_slurm_does_not_queue_again_has_ended(programs: Path, tmp_path: Path) -> None:
    says(programs, "squeue", "RUNNING")
    (programs / "scontrol.says").write_text("echo 'Requested operation is presently disabled' >&2; exit 1")
    task = node(tmp_path, "wait")
    wait_until(lambda: len(notes(tmp_path, "started")) == 1, "the worker to start")
    task.send_signal(signal.SIGUSR2)
    assert task.wait() == 143
    assert (tmp_path / "9.exit").read_text() == "143"


def test_a_cancelled_task_does_not_queue_again(programs: Path, tmp_path: Path) -> None:
    says(programs, "squeue", "COMPLETING")
    task = node(tmp_path, "wait")
    wait_until(lambda: len(notes(tmp_path, "started")) == 1, "the worker to start")
    os.kill(int(next(tmp_path.glob("started-*")).name.split("-")[1]), signal.SIGTERM)  # Slurm tells every process
    task.send_signal(signal.SIGTERM)
    assert task.wait() == 143
    assert (tmp_path / "9.exit").read_text() == "143"
    assert not [call for call in calls(programs) if call.startswith("scontrol")]

"""Launchers without a server: their keys, and workers of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from dlrun.errors import ConfigError
from dlrun.sweeps.launchers import NAMES, make_launcher, worker_command
from dlrun.sweeps.launchers.local import LocalLauncher, LocalOptions
from dlrun.sweeps.launchers.options import minutes, read_options
from dlrun.sweeps.launchers.processes import ended_badly
from dlrun.sweeps.launchers.ray import RayOptions
from dlrun.sweeps.launchers.slurm import SlurmOptions
from launcher_cases import command, notes, wait_until

KINDS = {"local": LocalOptions, "ray": RayOptions, "slurm": SlurmOptions}


# Keys


@pytest.mark.parametrize("name", NAMES)
def test_the_config_of_each_launcher_has_its_keys_and_their_defaults(name: str, repository: Path) -> None:
    shipped = yaml.safe_load((repository / "configs" / "launcher" / f"{name}.yaml").read_text())
    assert shipped.pop("name") == name
    assert asdict(read_options(KINDS[name], name, shipped)) == asdict(KINDS[name]())
    assert set(shipped) == set(asdict(KINDS[name]()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"partitoin": "gpu"}, "launcher.partitoin: launcher=slurm has no such key; did you mean 'partition'?"),
        ({"cpus": "two"}, "launcher.cpus=two: must be a whole number, 0 or more"),
        ({"cpus": True}, "launcher.cpus=True: must be a whole number, 0 or more"),
        ({"gpus": -1}, "launcher.gpus=-1: must be a whole number, 0 or more"),
        ({"keep": "yes"}, "launcher.keep=yes: must be true or false"),
        ({"sbatch": "x"}, "launcher.sbatch=x: must be a mapping, such as {reservation: course}"),
        ({"setup": 3}, "launcher.setup=3: must be a list"),
        ({"cpus": None}, "launcher.cpus=None: must be a whole number, 0 or more"),
    ],
)
def test_a_wrong_key_or_value_is_told(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_options(SlurmOptions, "slurm", given)
    assert str(error.value) == said


def test_values_are_taken_as_a_person_writes_them() -> None:
    options = read_options(SlurmOptions, "slurm", {"time": 90, "memory": 16, "setup": "module load cuda", "gpus": None})
    assert options == SlurmOptions(time="90", memory="16", setup=("module load cuda",))
    assert read_options(RayOptions, "ray", {"gpus": 1}).gpus == 1.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", 90),
        ("1.5", 2),
        ("90s", 2),
        ("1h30m", 90),
        ("2d", 2880),
        ("12:00:00", 720),
        ("1-12:00", 2160),
        ("4:30", 5),
    ],
)
def test_time_limits(text: str, found: int) -> None:
    assert minutes(text) == found


@pytest.mark.parametrize("text", ["soon", "", "0", "1:2:3:4"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ConfigError, match=r"launcher\.time"):
        minutes(text)


def test_launchers_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'slurm'"):
        make_launcher("slrum", {})
    for name, package in (("slurm", "submitit"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=rf"pip install 'dlrun\[{name}\]'"):
            make_launcher(name, {})


def test_the_command_of_a_worker(tmp_path: Path) -> None:
    assert worker_command(tmp_path) == [sys.executable, "-m", "dlrun", "sweep", "--worker", str(tmp_path.resolve())]


# Workers of this machine


def test_workers_that_end_well(tmp_path: Path) -> None:
    workers = LocalLauncher({"cpus": 3}, command("exit")).start(tmp_path, 2)
    wait_until(lambda: workers.alive() == 0, "both workers")
    assert workers.problems() == []
    assert [note.split(" ", 1) for note in notes(tmp_path, "started")] == [[str(Path.cwd()), note(threads="3")]] * 2


def note(threads: str | None = None, devices: str | None = None, test: str | None = None) -> str:
    """What the stand-in worker writes of its environment."""
    return str([threads, devices, test, None])


def test_workers_that_end_badly_are_told_with_their_last_words(tmp_path: Path) -> None:
    workers = LocalLauncher({}, command("exit", "3")).start(tmp_path, 2)
    wait_until(lambda: workers.alive() == 0, "both workers")
    log = tmp_path / "workers" / "worker-1.log"
    assert workers.problems()[0] == f"worker 1 ended with exit code 3: these are the last words; its log is {log}"
    assert len(workers.problems()) == 2


def test_cancelled_workers_save_and_are_no_problem(tmp_path: Path) -> None:
    workers = LocalLauncher({}, command("wait")).start(tmp_path, 2)
    wait_until(lambda: len(notes(tmp_path, "started")) == 2, "both workers to start")
    assert workers.alive() == 2
    workers.cancel()
    workers.cancel()
    wait_until(lambda: workers.alive() == 0, "both workers")
    assert len(notes(tmp_path, "saved")) == 2
    assert workers.problems() == []


def test_a_worker_that_was_killed_is_told(tmp_path: Path) -> None:
    workers = LocalLauncher({}, command("wait")).start(tmp_path, 1)
    wait_until(lambda: len(notes(tmp_path, "started")) == 1, "the worker to start")
    workers.started[0][0].kill()
    wait_until(lambda: workers.alive() == 0, "the worker")
    assert "worker 1 was ended by SIGKILL" in workers.problems()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns of its parent's death on Linux alone")
def test_workers_do_not_outlive_a_master_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, signal; from launcher_cases import command; from dlrun.sweeps.launchers import *\n"
        "workers = make_launcher('local', {}, command('wait')).start(pathlib.Path(sys.argv[1]), 2)\n"
        "signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    master = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    try:
        wait_until(lambda: len(notes(tmp_path, "started")) == 2, "both workers to start")
    finally:
        master.kill()
        master.wait()
    wait_until(lambda: len(notes(tmp_path, "saved")) == 2, "both workers to save")


def test_lines_about_a_worker_are_not_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "submitit INFO (x) - Starting\nthe disk is full\n\nsrun: error: n1: task 0: Exited with exit code 7\n"
    )
    assert ended_badly(0, 7, log) == f"worker 1 ended with exit code 7: the disk is full; its log is {log}"
    assert ended_badly(1, 143, log) == f"worker 2 was ended by SIGTERM; its log is {log}"
    assert ended_badly(1, 5, tmp_path / "none") == f"worker 2 ended with exit code 5; its log is {tmp_path / 'none'}"

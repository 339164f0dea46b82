"""Launchers and sweeps against real servers: a Slurm, a Ray and a PostgreSQL that scripts/servers start.

Each is skipped, with the reason, where its programs are not installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dlrun.errors import ConfigError
from dlrun.sweeps.launchers import Workers, make_launcher, slurm
from launcher_cases import command, notes, wait_until

SERVERS = Path(__file__).resolve().parents[2] / "scripts" / "servers"
MISSING = 3  # exit code of these scripts where a program is not installed
SWEEP = ["model=mlp", "data=digits", "optimizer.lr=0.1,0.01", "seeds=2", "trainer.steps=20", "tracking=minimal"]


@pytest.fixture(scope="module", autouse=True)
def _often() -> Iterator[None]:
    """Slurm is this test's own: it may be asked as often as one likes."""
    before, slurm._ASK_SECONDS = slurm._ASK_SECONDS, 0.2
    yield
    slurm._ASK_SECONDS = before


def server(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Start a server and end it afterwards; yields the variables of the environment that lead to it."""
    script = [str(SERVERS / name)]
    environment = {**os.environ, "PYTHON": sys.executable}
    up = subprocess.run([*script, "up", str(folder)], capture_output=True, text=True, env=environment)
    if up.returncode == MISSING:
        pytest.skip(up.stderr.strip())
    try:
        assert up.returncode == 0, up.stderr
        words = [line.removeprefix("export ").split("=", 1) for line in up.stdout.splitlines()]
        with pytest.MonkeyPatch.context() as patch:
            for key, value in words:
                patch.setenv(key, value.strip("'"))
            yield {key: value.strip("'") for key, value in words}
    finally:
        subprocess.run([*script, "down", str(folder)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def slurm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("submitit")
    yield from server("slurm", tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def ray_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if find_spec("ray") is None:  # not imported yet: it reads its settings from the environment once
        pytest.skip("no ray in this Python")
    yield from server("ray", tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("psycopg")
    yield from server("postgres", tmp_path_factory.mktemp("postgres"))


@pytest.fixture(params=["slurm", "ray"])
def launcher(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue(f"{request.param}_server")
    return str(request.param)


def start(launcher: str, folder: Path, *words: str) -> Workers:
    return make_launcher(launcher, {}, command(*words)).start(folder, 2)


# The launchers, with a stand-in for the worker


def test_workers_run_here_with_the_masters_environment(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRUN_TEST", "yes")
    workers = start(launcher, tmp_path, "exit")
    wait_until(lambda: workers.alive() == 0, "both workers")
    assert workers.problems() == []
    found = [note.removeprefix(f"{Path.cwd()} ") for note in notes(tmp_path, "started")]
    assert len(found) == 2
    assert {(note.startswith("['1', "), note.endswith(", 'yes', None]")) for note in found} == {(True, True)}


def test_workers_that_end_badly_say_why(launcher: str, tmp_path: Path) -> None:
    workers = start(launcher, tmp_path, "exit", "3")
    wait_until(lambda: workers.alive() == 0, "both workers")
    sentences = workers.problems()
    assert [line.split(";")[0] for line in sentences] == [
        f"worker {number} ended with exit code 3: these are the last words" for number in (1, 2)
    ]
    assert all(Path(line.rpartition(" ")[2]).is_file() for line in sentences)


def test_cancelled_workers_have_the_time_to_save(launcher: str, tmp_path: Path) -> None:
    workers = start(launcher, tmp_path, "wait")
    wait_until(lambda: len(notes(tmp_path, "started")) == 2, "both workers to start")
    assert workers.alive() == 2
    workers.cancel()
    wait_until(lambda: workers.alive() == 0, "both workers")
    assert len(notes(tmp_path, "saved")) == 2
    assert workers.problems() == []


def test_ray_leaves_the_masters_signals_alone(ray_server: dict[str, str], tmp_path: Path) -> None:
    import ray

    ray.shutdown()
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        workers = start("ray", tmp_path, "exit")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    wait_until(lambda: workers.alive() == 0, "both workers")


def test_a_ray_that_is_not_there_is_told(ray_server: dict[str, str], tmp_path: Path) -> None:
    import ray

    ray.shutdown()
    launcher = make_launcher("ray", {"address": "127.0.0.1:1"}, command("exit"))
    with pytest.raises(ConfigError, match=r"launcher\.address=127\.0\.0\.1:1: no Ray answers .*'ray start --head'"):
        launcher.start(tmp_path, 1)


def test_what_no_node_has_is_told(ray_server: dict[str, str], tmp_path: Path) -> None:
    workers = make_launcher("ray", {"cpus": 64}, command("exit")).start(tmp_path, 1)
    assert workers.alive() == 1
    assert workers.problems() == [
        "no node of this Ray has 64 CPUs and 0 GPUs: workers wait for one, or lower launcher.cpus, gpus"
    ]
    workers.cancel()
    wait_until(lambda: workers.alive() == 0, "the worker")


@pytest.mark.slow
def test_preempted_workers_save_and_queue_again(slurm_server: dict[str, str], tmp_path: Path) -> None:
    workers = start("slurm", tmp_path, "wait")
    wait_until(lambda: len(notes(tmp_path, "started")) == 2, "both workers to start")
    urgent = "sbatch --parsable --partition=urgent --nodes=2 --exclusive --mem=0 --output=/dev/null --wrap=true"
    subprocess.run(urgent.split(), check=True, capture_output=True)
    wait_until(lambda: len(notes(tmp_path, "saved")) == 2, "both workers to save")
    queue = ["squeue", "--noheader", "--array", "--partition=debug", "--format=%T %r"]

    def queued_again() -> bool:
        return subprocess.check_output(queue, text=True).splitlines() == ["PENDING BeginTime"] * 2

    wait_until(queued_again, "both workers to be queued again")
    assert workers.alive() == 2
    assert workers.problems() == []
    workers.cancel()
    wait_until(lambda: workers.alive() == 0, "both workers to leave the queue")


# Whole sweeps


def sweep(outputs: Path, *words: str) -> dict[str, Any]:
    """Run the same small sweep with two workers; the folder of the sweep and what its trials came to."""
    line = [sys.executable, "-m", "dlrun", "sweep", *SWEEP, *words, "--workers", "2", "--outputs", str(outputs)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = outputs.rglob("sweep.json")
    trials = {path.parent.name: json.loads(path.read_text()) for path in record.parent.glob("*-seed*/run.json")}
    return {"folder": record.parent, "trials": trials, "said": done.stdout + done.stderr}


def assert_complete(found: dict[str, Any]) -> None:
    """Two points under two seeds, each trial done once."""
    names = [f"{number:04d}-seed{seed}" for number in range(2) for seed in (0, 1)]
    assert sorted(found["trials"]) == names
    assert {record["status"] for record in found["trials"].values()} == {"done"}
    assert {path.name for path in found["folder"].glob("*.csv")} == {"points.csv", "trials.csv"}


@pytest.mark.slow
def test_a_sweep_on_slurm(slurm_server: dict[str, str], tmp_path: Path) -> None:
    found = sweep(tmp_path, "launcher=slurm")
    assert_complete(found)
    assert len(list((found["folder"] / "slurm").glob("*_log.out"))) == 2


@pytest.mark.slow
def test_a_sweep_on_ray(ray_server: dict[str, str], tmp_path: Path) -> None:
    found = sweep(tmp_path, "launcher=ray")
    assert_complete(found)
    assert len(list((found["folder"] / "ray").glob("worker-*.log"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "slurm"])
def test_a_sweep_on_postgresql(
    where: str, postgres_server: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if where == "slurm":
        request.getfixturevalue("slurm_server")
    found = sweep(tmp_path, f"launcher={where}", "sweep.storage=${oc.env:DLRUN_STORAGE}")
    assert_complete(found)
    assert not (found["folder"] / "study.db").exists()
    secret = postgres_server["PGPASSWORD"].encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if secret in path.read_bytes()]
    assert secret.decode() not in found["said"]

"""Several processes at once: one of two gets a run, a dead holder frees it at once, no two runs share a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlrun.errors import LockedError
from dlrun.tracking import lock
from dlrun.tracking.run_directory import RunDirectory, list_runs

LONG = os.environ.get("DLRUN_TORTURE") == "long"
ROUNDS = 100 if LONG else 8
PROCESSES, RUNS_EACH = (100, 5) if LONG else (8, 10)
SOURCE = Path(__file__).resolve().parents[2] / "src"

CONTENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dlrun.errors import LockedError
from dlrun.tracking.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
try:
    run.lock()
    print("won", flush=True)
except LockedError as error:
    print(error, flush=True)
sys.stdin.readline()
"""

CREATOR = """
import sys
sys.path.insert(0, sys.argv[1])
from datetime import datetime
from pathlib import Path
from dlrun.tracking.run_directory import RunDirectory
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    if sys.argv[4] == "good":
        print(RunDirectory.create(Path(sys.argv[2]), "mlp").path, flush=True)
    else:  # named by the second alone, as Hydra does
        path = Path(sys.argv[2], f"{datetime.now():%H%M%S}")
        path.mkdir(parents=True, exist_ok=True)
        print(path, flush=True)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-s", "-c", program, str(SOURCE), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(processes: list[subprocess.Popen[str]]) -> None:
    """Wait until all are ready, then let all of them run at once."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_one_of_two_gets_the_run_and_a_killed_holder_frees_it_at_once(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "mlp")
    for _ in range(ROUNDS):
        pair = [start(CONTENDER, str(run.path)) for _ in range(2)]
        go(pair)
        answers = {process.pid: answer(process) for process in pair}
        winner = [pid for pid, text in answers.items() if text == "won"]
        assert len(winner) == 1, answers
        (refusal,) = [text for text in answers.values() if text != "won"]
        assert str(run.path) in refusal
        assert f"process {winner[0]}" in refusal
        with pytest.raises(LockedError, match=rf"process {winner[0]} on \S+ since \d{{4}}-"):
            run.lock()
        assert list_runs(tmp_path)[0]["status"] == "running"
        os.kill(winner[0], signal.SIGKILL)
        for process in pair:
            end(process)
        assert list_runs(tmp_path)[0]["status"] == "crashed"
        run.lock()
        run.unlock()


def test_a_stopped_holder_still_holds(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "mlp")
    process = start(CONTENDER, str(run.path))
    go([process])
    assert answer(process) == "won"
    os.kill(process.pid, signal.SIGSTOP)
    assert lock.is_held(run.path / "run.lock")
    with pytest.raises(LockedError):
        run.lock()
    end(process)


def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "mlp")
    forking = CONTENDER.replace(
        'print("won", flush=True)',
        'import os; child = os.fork(); child and print("won", child, flush=True); child or os.execlp("cat", "cat")',
    )
    process = start(forking, str(run.path))
    go([process])
    won, child = answer(process).split()
    assert won == "won"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    os.kill(int(child), 0)  # the worker lives on
    run.lock()
    run.unlock()
    os.kill(int(child), signal.SIGKILL)
    process.communicate()


def created(tmp_path: Path, kind: str) -> list[str]:
    processes = [start(CREATOR, str(tmp_path), str(RUNS_EACH), kind) for _ in range(PROCESSES)]
    go(processes)
    paths = [path for process in processes for path in process.communicate()[0].split()]
    assert len(paths) == PROCESSES * RUNS_EACH
    return paths


def test_runs_started_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    paths = created(tmp_path, "good")
    assert len(set(paths)) == len(paths)
    assert {record["path"] for record in list_runs(tmp_path)} == set(paths)


def test_directories_named_by_the_second_are_caught(tmp_path: Path) -> None:
    paths = created(tmp_path, "by the second")
    assert len(set(paths)) < len(paths)

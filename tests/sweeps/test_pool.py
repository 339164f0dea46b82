"""Processes of jobs: each kind of end is told, takes nothing else with it, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import faulty_trials
from dlrun.sweeps.child import OUTPUT, Link
from dlrun.sweeps.jobs import Alive, Ended, Evaluated, Event, Gone, Job
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED
from dlrun.sweeps.pool import Pool, accelerators, spoken_time, thread_share
from faulty_trials import trial, work

PATIENCE = 60.0  # seconds until a test gives up; it never takes them


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


def until_over(pool: Pool, answer: bool | None = None) -> list[Event]:
    """All events until no job is left; a job that waits for an answer gets it."""
    found: list[Event] = []
    while pool.jobs:
        for event in pool.events(0.1):
            if isinstance(event, Evaluated) and event.waits:
                assert answer is not None
                pool.answer(event.job, answer)
            found.append(event)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried by its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def output(folder: Path, number: int = 0) -> str:
    return (folder / f"{number:04d}-seed0" / OUTPUT).read_text()


@pytest.mark.parametrize(
    ("fault", "status", "code", "error"),
    [
        ("none", DONE, 0, ""),
        ("raise", FAILED, 1, "ValueError: a planted mistake"),
        ("exit", FAILED, 3, "it called sys.exit(3)"),
        ("exit well", FAILED, 1, "it called sys.exit(0)"),
        ("diverge", DIVERGED, 6, "train/loss became nan"),
    ],
)
def test_a_trial_says_itself_how_it_ended(
    pool: Pool, tmp_path: Path, fault: str, status: str, code: int, error: str
) -> None:
    pool.start(Job((trial(tmp_path, fault=fault),), work))
    events = until_over(pool)
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert (ended.ending.status, ended.ending.exit_code) == (status, code)
    assert error in ended.ending.error
    assert isinstance(events[-1], Gone)
    assert not events[-1].outside


@pytest.mark.parametrize(
    ("fault", "code", "reason", "outside"),
    [
        ("os exit", 4, "exit code 4 without a word", False),
        ("segfault", 139, "signal 11 (SIGSEGV, segmentation fault)", False),
        ("killed", 137, "signal 9 (SIGKILL, killed): perhaps the system ran out of memory", True),
        ("warned", 138, "exit code 138 without a word", True),
        ("leaves a process", 1, "exit code 0 without a word", False),
    ],
)
def test_a_process_that_ends_without_a_word_is_told(
    pool: Pool, tmp_path: Path, fault: str, code: int, reason: str, outside: bool
) -> None:
    other = trial(tmp_path, 1, steps=20)
    pool.start(Job((trial(tmp_path, fault=fault),), work))
    pool.start(Job((other,), work))
    events = until_over(pool)
    (gone,) = [event for event in events if isinstance(event, Gone) and event.job.trials[0].number == 0]
    assert gone.exit_code == code
    assert reason in gone.reason
    assert gone.outside is outside
    assert faulty_trials.record(other)["status"] == DONE, "nothing happened to the other one"


@pytest.mark.parametrize("fault", ["hang", "hang hard"])
def test_a_job_without_a_sign_of_life_is_killed(tmp_path: Path, fault: str) -> None:
    clock = [0.0]
    pool = Pool(1, hang=1800.0, now=lambda: clock[0])
    pool.start(Job((trial(tmp_path, fault=fault),), work))
    wait_until(lambda: any(isinstance(event, Alive) and event.step == 2 for event in pool.events(1)))  # its last words
    clock[0] = 1800.0
    assert not any(isinstance(event, Gone) for event in pool.events(0)), "not yet"
    clock[0] = 3601.0
    gone = until_over(pool)[-1]
    assert isinstance(gone, Gone)
    assert gone.reason == "no sign of life for 30 minutes (sweep.hang)"
    assert (gone.exit_code, gone.outside) == (137, False)


def test_a_master_that_slept_does_not_take_its_jobs_for_dead(tmp_path: Path) -> None:
    clock = [0.0]
    pool = Pool(1, hang=10.0, now=lambda: clock[0])
    pool.start(Job((trial(tmp_path),), work, watched=(True,)))
    wait_until(lambda: faulty_trials.ledger(tmp_path) != [])
    wait_until(lambda: pool._running[0].link is not None and pool._running[0].link.poll())
    clock[0] = 1e6
    found = until_over(pool, False)  # what was said in the meantime is heard first
    assert [event.ending.status for event in found if isinstance(event, Ended)] == [DONE]


def test_a_trial_that_takes_too_long_is_killed_and_a_pack_may_take_as_many_times_as_long(tmp_path: Path) -> None:
    clock = [0.0]
    pool = Pool(2, timeout=60.0, hang=1e9, now=lambda: clock[0])
    alone = Job((trial(tmp_path, 0, fault="hang"),), work)
    pack = Job((trial(tmp_path, 1, fault="hang"), trial(tmp_path, 2)), work)
    pool.start(alone)
    pool.start(pack)
    clock[0] = 61.0
    found: list[Event] = []
    wait_until(lambda: found.extend(pool.events(0.1)) or pool.jobs == [pack])
    clock[0] = 121.0
    found += until_over(pool)
    gone = [event for event in found if isinstance(event, Gone)]
    assert [event.job for event in gone] == [alone, pack]
    assert {event.reason for event in gone} == {"it took longer than 60 seconds (sweep.timeout)"}


def test_what_it_prints_is_in_its_folder(pool: Pool, tmp_path: Path) -> None:
    pool.start(Job((trial(tmp_path, 0, fault="raise"),), work))
    pool.start(Job((trial(tmp_path, 1, fault="segfault"),), work))
    until_over(pool)
    assert 'raise ValueError("a planted mistake")' in output(tmp_path, 0)
    assert "Segmentation fault" in output(tmp_path, 1)
    pool.start(Job((trial(tmp_path, 0), trial(tmp_path, 2)), work))
    until_over(pool)
    assert "planted mistake" in output(tmp_path, 0), "what an earlier attempt printed stays"
    assert output(tmp_path, 2) == "trained in a pack with others: what they print is in ../0000-seed0/output.log\n"


def test_a_folder_that_cannot_be_written_is_a_sentence(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "0000-seed0").write_text("a file in the way")
    pool.start(Job((trial(tmp_path),), work))
    (ended,) = [event for event in until_over(pool) if isinstance(event, Ended)]
    assert ended.ending.exit_code == 7
    assert ended.ending.error.startswith(f"cannot write {tmp_path}")


def test_what_a_job_has_started_ends_with_it(pool: Pool, tmp_path: Path) -> None:
    pool.start(Job((trial(tmp_path, fault="leaves a process"),), work))
    until_over(pool)
    (line,) = [line for line in output(tmp_path).splitlines() if line.startswith("left")]
    wait_until(lambda: not alive(int(line.split()[1])))


def show_surroundings(job: Job, link: Link) -> None:
    """A job that prints what it was given."""
    print("device", os.environ.get("CUDA_VISIBLE_DEVICES"), "threads", torch.get_num_threads())
    print("own session", os.getsid(0) == os.getpid(), flush=True)
    os.system("echo from a program")


def test_devices_go_round_and_threads_are_shared_out(tmp_path: Path) -> None:
    pool = Pool(3, threads=2, devices=("4", "7"))
    for number in range(3):
        pool.start(Job((trial(tmp_path, number),), show_surroundings))
    assert pool.free == 0
    until_over(pool)
    first = [output(tmp_path, number).splitlines()[0] for number in range(3)]
    assert first == ["device 4 threads 2", "device 7 threads 2", "device 4 threads 2"]
    assert output(tmp_path).splitlines()[1:] == ["own session True", "from a program"]


@pytest.mark.parametrize("prune", [True, False])
def test_an_answer_reaches_the_lane_that_waits_for_it(pool: Pool, tmp_path: Path, prune: bool) -> None:
    pool.start(Job((trial(tmp_path),), work, watched=(True,)))
    events = until_over(pool, answer=prune)
    steps = [event.step for event in events if isinstance(event, Evaluated)]
    assert steps == ([1] if prune else [1, 2, 3, 4])
    assert faulty_trials.record(trial(tmp_path))["status"] == ("pruned" if prune else "done")


def test_closing_ends_everything(tmp_path: Path) -> None:
    pool = Pool(2)
    pool.start(Job((trial(tmp_path, 0, fault="hang"),), work))
    pool.start(Job((trial(tmp_path, 1, fault="hang hard"),), work))
    pids = [running.process.pid for running in pool._running]
    pool.close()
    assert not pool.jobs
    assert not any(alive(pid) for pid in pids if pid)


MASTER = """
import sys
from pathlib import Path
from faulty_trials import trial, work
from dlrun.sweeps.jobs import Evaluated, Job
from dlrun.sweeps.pool import Pool
if __name__ == "__main__":
    pool = Pool(3)
    faults = ("hang", "hang hard", "none")
    for number, fault in enumerate(faults):
        pool.start(Job((trial(Path(sys.argv[1]), number, fault=fault, steps=100000, pause=0.01),), work))
    heard = set()
    while len(heard) < 3:
        heard |= {event.job for event in pool.events(1) if isinstance(event, Evaluated)}
    print(pool._running[0].server, *(running.process.pid for running in pool._running), flush=True)
    while True:
        pool.events(1)
"""


def test_nothing_is_left_when_the_master_is_killed(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(faulty_trials.__file__).parent), os.environ.get("PYTHONPATH", "")])
    master = tmp_path / "master.py"
    master.write_text(MASTER)
    process = subprocess.Popen(
        [sys.executable, str(master), str(tmp_path)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}
    )
    assert process.stdout is not None
    with process, process.stdout:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)
        process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_when_the_fork_server_is_killed_its_jobs_may_be_tried_again_and_others_start(tmp_path: Path) -> None:
    pool = Pool(2)
    pool.start(Job((trial(tmp_path, fault="hang"),), work))
    wait_until(lambda: any(isinstance(event, Evaluated) for event in pool.events(1)))
    server = pool._running[0].server
    assert server
    os.kill(server, signal.SIGKILL)
    gone = until_over(pool)[-1]
    assert isinstance(gone, Gone)
    assert gone.outside
    assert gone.reason == "the process that it was forked from was killed"
    pool.start(Job((trial(tmp_path, 1),), work))
    assert [event.ending.status for event in until_over(pool) if isinstance(event, Ended)] == [DONE]


def test_times_are_said_in_plain_units() -> None:
    assert [spoken_time(s) for s in (7200, 1800, 90, 1.5)] == ["2 hours", "30 minutes", "90 seconds", "1.5 seconds"]


def test_threads_and_accelerators_follow_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_share(1) == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_share(10**6) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert accelerators() == ("3", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert accelerators() == ()

"""A save is killed, or refused by the kernel, at every system call it makes; nothing acknowledged is ever lost.

SQLite's method: the n-th call fails for n = 1, 2, ... until a run is clean. ``DLRUN_TORTURE=long`` tries every error
number.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlrun.tracking.durable import TEMPORARY
from dlrun.training.container import load
from dlrun.training.shelf import Shelf

LONG = os.environ.get("DLRUN_TORTURE") == "long"
SAVES = 5 if LONG else 3
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EMFILE", "EACCES") if LONG else ("ENOSPC",)
SAVER = Path(__file__).with_name("saver.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"
CALLS = "openat,write,fsync,rename,close,unlink,lseek,read,mkdir,statfs,getdents64"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", "")}
KILL = "error=EINTR:signal=KILL"  # the call is not made, and the process is gone
COMMAND = [sys.executable, "-s", "-S", str(SAVER), str(SOURCE)]


@pytest.fixture(scope="module", autouse=True)
def _needs_strace() -> None:
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


def strace(log: Path, options: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run ``command`` under strace; what strace prints goes to ``log``."""
    # seccomp stops at the traced calls alone, which is faster, but swallows an injected signal
    fast = [] if any(KILL in option for option in options) else ["-f", "--seccomp-bpf"]
    full = ["strace", *fast, "-qq", "-y", "-s", "64", "-o", str(log), *options, *command]
    return subprocess.run(full, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)


def lines_of(log: Path) -> list[str]:
    """The calls in ``log`` without the numbers of their processes."""
    return [line.lstrip("0123456789 ") for line in log.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, because the syncs of a thousand saves on a real disk take minutes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def points(place: Path, mode: str) -> list[tuple[str, int]]:
    """Each system call of a clean run that touches the checkpoints: its name, and the how many-th of that name."""
    folder, log = place / "clean", place / "clean.log"
    for _ in range(2):  # the first run may still write byte code
        shutil.rmtree(folder, ignore_errors=True)
        done = strace(log, ["-e", f"trace={CALLS}"], [*COMMAND, str(folder), str(SAVES), mode])
        assert (done.returncode, done.stderr) == (0, "")
    count: Counter[str] = Counter()
    found = []
    for line in lines_of(log):
        call = line.partition("(")[0]
        count[call] += 1
        if str(folder) in line:
            found.append((call, count[call]))
    return found


Case = tuple[str, subprocess.CompletedProcess[str], Path]


def faults(place: Path, mode: str, injection: str, only: str = "") -> Iterator[Case]:
    """Run the saver once for each point; yields the fault, how the saver ended, and its folder."""
    for call, nth in points(place, mode):
        if only not in ("", call):
            continue
        folder = place / "faulty"
        shutil.rmtree(folder, ignore_errors=True)
        what = f"{call}:{injection}:when={nth}"
        options = ["-e", f"trace={call}", "-e", f"inject={what}"]
        yield what, strace(place / "log", options, [*COMMAND, str(folder), str(SAVES), mode]), folder


def losses(printed: str, folder: Path) -> list[str]:
    """What was acknowledged and is gone, and what is there and should not be."""
    acknowledged = {"saved": 0, "best": 0}
    for line in printed.splitlines():
        kind, _, number = line.partition(" ")
        if kind in acknowledged:
            acknowledged[kind] = int(number)
    shelf = Shelf(folder)
    shelf.sweep_temporaries()
    found = []
    newest = shelf.newest()
    if (step_in(newest[0]) if newest else 0) < acknowledged["saved"] or (newest and newest[3]):
        found.append("newest")
    if (step_in(load(shelf.best_path)[0]) if shelf.best_path.exists() else 0) < acknowledged["best"]:
        found.append("best")
    if folder.exists() and any(path.name.startswith(TEMPORARY) for path in folder.iterdir()):
        found.append("temporaries")
    return found


def step_in(data: bytes) -> int:
    """The step of a checkpoint of the saver, every byte of which is that step."""
    payload = data[-5000:]
    assert len(set(payload)) == 1
    return payload[0]


@pytest.mark.parametrize("injection", [KILL, *(f"error={name}" for name in ERRORS)])
def test_nothing_acknowledged_is_lost_at_any_system_call(place: Path, injection: str) -> None:
    tried = 0
    for what, done, folder in faults(place, "good", injection):
        tried += 1
        assert done.stderr == "", f"{what}: a traceback"
        assert done.returncode in ((-9, 137) if injection == KILL else (0, 7)), what
        assert losses(done.stdout, folder) == [], f"{what}: {done.stdout}"
        refusals = [line for line in done.stdout.splitlines() if not re.fullmatch(r"(saved|best) \d+", line)]
        assert all(re.match(f"refused cannot .*{folder}.*: ", line) for line in refusals), what
    assert tried > 20 * SAVES


@pytest.mark.parametrize("injection", [KILL, "error=ENOSPC"])
def test_a_saver_that_deletes_before_it_writes_is_caught(place: Path, injection: str) -> None:
    cases = faults(place, "prune_first", injection, only="rename")
    assert any(losses(done.stdout, folder) for _, done, folder in cases)


def events(log: Path, folder: Path) -> list[tuple[str, str]]:
    """(call, file name below the folder, or "." for the folder, or the acknowledgement) in the order of the log."""
    found = []
    inside = re.compile(re.escape(str(folder)) + r"/?([^>\"]*)[>\"]")
    for line in lines_of(log):
        call = line.partition("(")[0]
        paths = inside.findall(line)
        if call == "write" and (printed := re.search(r'"(saved \d+|best \d+)', line)):
            found.append(("acknowledged", printed[1]))
        elif call == "openat" and paths and "O_CREAT" in line:
            found.append(("create", paths[0]))
        elif call in ("write", "fsync", "unlink") and paths:
            found.append((call, paths[0] or "."))
        elif call == "rename" and paths:
            found.append((call, " ".join(paths)))
    return found


def order(found: list[tuple[str, str]]) -> list[str]:
    """For each temporary, the calls from its creation to the acknowledgement, repeats joined."""
    saves: list[list[str]] = []
    for call, name in found:
        if call == "create":
            saves.append([])
        kind = "folder" if name == "." else "old" if call == "unlink" else ""
        step = " ".join(filter(None, (call, kind)))
        if saves and (not saves[-1] or saves[-1][-1] != step):
            saves[-1].append(step)
    return [" < ".join(save) for save in saves]


DURABLE = "create < write < fsync < rename < fsync folder"
PRUNED = f"{DURABLE} < unlink old < fsync folder < acknowledged"

REAL_SAVE = """
import sys, torch
from pathlib import Path
from dlrun.training.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
for step in range(1, 4):
    checkpoints.save(step, {"model": {"weight": torch.ones(100, 100)}, "step": step})
    print(f"saved {step}", flush=True)
"""


def test_a_real_save_syncs_in_the_durable_order(tmp_path: Path) -> None:
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    folder.mkdir()
    full = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "64", "-o", str(log)]
    full += ["-e", "trace=openat,write,fsync,rename,unlink", sys.executable, "-c", REAL_SAVE, str(folder)]
    subprocess.run(full, capture_output=True, timeout=120, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert order(events(log, folder)) == [f"{DURABLE} < acknowledged"] * 2 + [PRUNED]


def test_a_save_without_sync_has_another_order(tmp_path: Path) -> None:
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    strace(log, ["-e", f"trace={CALLS}"], [*COMMAND, str(folder), "1", "no_sync"])
    broken = order(events(log, folder))
    assert broken
    assert DURABLE not in broken[0]
    strace(log, ["-e", f"trace={CALLS}"], [*COMMAND, str(folder), "1", "good"])
    assert DURABLE in order(events(log, folder))[0]

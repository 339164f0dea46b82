"""Runs of two processes, started as a user starts them, that end whatever a test does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 120.0  # seconds: a fence against a hang, not a measurement
STEPS = ["data=iris", "trainer.batch_size=16", "trainer.evaluate_steps=10", "tracking.every=1", "tracking=minimal"]


def environment() -> dict[str, str]:
    """This process's, with one computing thread and without the launcher of a test run around."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    return kept | {"OMP_NUM_THREADS": "1", **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})}


def dlrun(*words: str, folder: Path, processes: int = 1, code: int = 0) -> str:
    """Run ``dlrun WORDS`` in ``folder`` to its end; what it printed.

    Each process is a fork of this one, which has torch loaded already, with the variables that torchrun would set.
    """
    port, pids = str(free_port()), []
    for rank in range(processes):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # nothing but this thread is at work here
            pid = os.fork()
        if pid == 0:
            _be(words, folder, rank, environment() | (variables if processes > 1 else {}))
        pids.append(pid)
    codes = _ends(pids)
    texts = [(folder / f"said-{rank}.txt").read_text() for rank in range(processes)]
    assert codes == [code] + [0 if code in (0, 143) else code] * (processes - 1), "\n".join(texts)
    assert not any("error:" in text or "note:" in text or "step" in text for text in texts[1:])
    return texts[0]


def _be(words: Sequence[str], folder: Path, rank: int, variables: dict[str, str]) -> None:
    """Become the process of one rank; never returns."""
    code = 1
    try:
        os.chdir(folder)
        said = os.open(f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115
        os.environ.clear()
        os.environ.update(variables)
        from dlrun.cli.main import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _ends(pids: Sequence[int]) -> list[int]:
    """Exit codes of child processes; those that do not end are killed."""
    codes: dict[int, int] = {}
    ends = time.monotonic() + LIMIT
    while len(codes) < len(pids) and time.monotonic() < ends:
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    for pid in set(pids) - set(codes):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        codes[pid] = -signal.SIGKILL
    return [codes[pid] for pid in pids]


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def started(*words: str, folder: Path, more: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is gone, with all its descendants, when the context ends."""
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder, env=environment() | (more or {}), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        left = [process.pid, *descendants(process.pid)]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs, by number."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return [*found, *(each for child in found for each in descendants(child))]


def runs(folder: Path) -> list[Path]:
    """The runs under ``folder``, oldest first."""
    return sorted(path.parent for path in folder.glob("outputs/*/*/run.json"))


def record(run: Path) -> dict[str, Any]:
    """What run.json says."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def curve(run: Path, name: str = "train/loss") -> list[tuple[int, float]]:
    """Step and value of each row that has one."""
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [(row["step"], row[name]) for row in rows if name in row]


def last(folder: Path) -> Path:
    """The newest run."""
    return runs(folder)[-1]


def words(*more: str) -> Sequence[str]:
    """``train`` on a tiny table."""
    return ("train", *STEPS, *more)

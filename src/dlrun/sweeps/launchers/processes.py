"""A worker's process: it cannot outlive who started it, and a terminal's Ctrl-C does not reach it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_NOT_ITS_OWN = ("srun:", "slurmstepd", "submitit ")  # lines of a log that are about the worker, not from it
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def start_process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a worker that gets a SIGTERM when the thread that started it ends, however that ends.

    It is in a session of its own: Ctrl-C would otherwise reach it at the same time as the SIGTERM of who started it,
    and a second signal ends a run at once, unsaved.

    Args:
        command: the program and its words.
        folder: its working directory.
        environment: all of its environment.
        log: where both of its outputs go; None is where those of this process go.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def before_it_runs() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning is for who started it
        if prctl is not None:
            prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)

    # start_process is called from the main thread, where what preexec_fn does is safe: it takes no lock.
    return subprocess.Popen(
        list(command),
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        start_new_session=True,
        preexec_fn=before_it_runs,
    )


def with_threads(environment: Mapping[str, str], count: int) -> dict[str, str]:
    """The environment of a worker that computes with ``count`` threads.

    Two processes with two threads each on two cores were twelve times slower than with one each.
    """
    return {**environment, "OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


def ended_badly(number: int, code: int, log: Path) -> str:
    """The sentence about a worker that ended with an exit code other than 0; negative codes are signals."""
    number += 1
    if code < 0 or code > 128:
        name = _signal_name(-code if code < 0 else code - 128)
        return f"worker {number} was ended by {name}; its log is {log}"
    last = _last_line(log)
    return f"worker {number} ended with exit code {code}{f': {last}' if last else ''}; its log is {log}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(log: Path) -> str:
    """What the worker itself said last, in at most 200 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    own = [line.strip() for line in lines if line.strip() and not line.startswith(_NOT_ITS_OWN)]
    return own[-1][:200] if own else ""

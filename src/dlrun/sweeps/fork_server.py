"""What the process that all trials are forked from does first, when multiprocessing loads this module into it.

It leaves the terminal's session, so that Ctrl-C reaches the master alone, and it ties its life to the master's, which
the kernel watches: however the master ends, no process stays behind. A trial watches its master by itself
(``child.py``) and takes the processes it has started with it; the fork server gives it a second for that, and then ends
those that hang so hard that they cannot watch anything: the kernel kills what was forked from it.

Imported anywhere else, where ``MARK`` is not in the environment, it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType

MARK = "DLRUN_FORK_SERVER"
GRACE = 1.0  # seconds for the trials to end by themselves once the master is gone
PRELOADED = ["dlrun.sweeps.fork_server", "torch", "torch._dynamo", "dlrun.sweeps.child"]
_PR_SET_PDEATHSIG = 1
# A signal that nobody else sends: a batch system's SIGTERM goes to every process, and the trials must get theirs alone.
_MASTER_GONE = getattr(signal, "SIGRTMIN", signal.SIGTERM) + 5


@contextmanager
def server_environment(threads: int) -> Iterator[None]:
    """The environment that a fork server must find when it starts: ``threads`` computing threads for each trial.

    Libraries read these numbers when they are loaded. Two trials with two threads each on two cores are twelve times
    slower than with one each.
    """
    wanted = {MARK: "1", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if "OMP_WAIT_POLICY" not in os.environ:
        wanted["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", "3000")  # see cli/main.py
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def hidden_main() -> Iterator[None]:
    """Hide the program's main module: multiprocessing would import it, and all that it loads, into every process."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_with_parent(number: int) -> None:
    """Have the kernel send this process the signal ``number`` when its parent is gone; nothing where it cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _leave(number: int, frame: FrameType | None) -> None:
    time.sleep(GRACE)
    os._exit(0)


if os.environ.pop(MARK, None) and sys.platform != "win32":
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.signal(_MASTER_GONE, _leave)
        end_with_parent(_MASTER_GONE)

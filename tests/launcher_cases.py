"""A stand-in for the worker of a sweep, and waiting with an end, for the tests of the launchers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

WORKER = Path(__file__).resolve()


def command(*words: str) -> Callable[[Path], list[str]]:
    """The command of a worker that leaves a note in the sweep's folder, then does what its words say.

    ``exit 3`` ends with that code; ``wait`` stays until a SIGTERM, saves, and ends with 143.
    """
    return lambda folder: [sys.executable, str(WORKER), str(folder.resolve()), *words]


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return as soon as it is true; fail when it never is."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def notes(folder: Path, kind: str) -> list[str]:
    """What workers wrote down under this name."""
    return [path.read_text() for path in sorted(folder.glob(f"{kind}-*"))]


def main(folder: Path, action: str, code: str = "0") -> None:
    """The worker."""
    import os
    import signal

    def note(kind: str) -> None:
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "DLRUN_TEST", "RAY_JOB_ID")
        text = f"{Path.cwd()} {[os.environ.get(name) for name in names]}"
        unfinished = folder / f".{kind}-{os.getpid()}"
        unfinished.write_text(text)
        unfinished.rename(folder / f"{kind}-{os.getpid()}")

    def stop(number: int, frame: object) -> None:
        note("saved")
        sys.exit(143)

    if action == "wait":
        signal.signal(signal.SIGTERM, stop)
    note("started")
    while action == "wait":
        signal.pause()
    print("these are the last words")
    sys.exit(int(code))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

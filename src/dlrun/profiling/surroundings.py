"""What stands around a profile: the place of its trace, signals that end it cleanly, and a line of progress."""

from __future__ import annotations

import math
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dlrun.errors import ConfigError, DlrunError, StorageError
from dlrun.profiling.timings import Limits
from dlrun.tasks import Evaluation
from dlrun.training.callbacks import Reporter

CLEANING_UP = 3.0  # seconds in which a second signal does not disturb; after it the first may have been swallowed
MEASURING = 1.5  # times as long as its blocks the measurement takes, with its warm-up, occasions and torch's profiler


class StoppedError(DlrunError):
    """A signal ended the profile."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def check_room(path: Path) -> None:
    """Find out before the measurement whether the trace can be written; folders that it needs are made with it.

    Raises:
        ConfigError: it is neither a JSON file nor a folder.
        StorageError: it cannot be written there.
    """
    named = path.name.endswith((".json", ".json.gz"))
    place = path.parent if named else path
    try:
        if path.exists() and path.is_dir() == named:
            raise ConfigError(f"--trace {path}: takes a file that ends in .json or .json.gz, or a folder")
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise StorageError(f"--trace {path}: {error.strerror}; choose another place") from error


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is done as Ctrl-C does, through everything that cleans up.

    Nothing on the way may take the end for a failure of its own, so it travels as SystemExit.

    Raises:
        StoppedError: one of them came, even where somebody caught the SystemExit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    raised = -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        came.append(number)
        if time.monotonic() - raised > CLEANING_UP:
            raised = time.monotonic()
            raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:  # nohup stays obeyed
            signal.signal(number, end)
    try:
        yield
    except BaseException as error:
        if not came:
            raise
        raise StoppedError(came[0]) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise StoppedError(came[0])


class Live:
    """Shows how far the profile is, at the cost that a run's own progress has, and keeps the run's lines to itself.

    The work is counted in the seconds that each piece of it is expected to take; the first is the measurement.
    """

    def __init__(self, reporter: Reporter, limits: Limits) -> None:
        self._reporter, self._limits = reporter, limits
        self._began: float | None = None  # the first step; reading the data comes before it
        self._done, self._now, self._ahead = 0.0, MEASURING * limits.seconds, 0.0
        self._step, self._share, self._values = 0, 0.0, dict[str, float]()

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """A step of the measurement: its share is that of the steps asked for, or else of the time."""
        self._began = self._began or time.perf_counter()
        reached = (time.perf_counter() - self._began) / self._now
        if self._limits.steps is not None:
            reached = step / (2 * self._limits.steps)
        self._step, self._values = step, values
        self.reached(reached)

    def expect(self, seconds: float) -> None:
        """After the present piece of work there is more, that will take about so many seconds."""
        self._ahead += seconds

    def turn_to(self, seconds: float) -> None:
        """The next piece of work begins, expected to take so many of the seconds ahead."""
        self._done += self._now
        self._now, self._ahead = seconds, max(0.0, self._ahead - seconds)
        self.reached(0.0)

    def reached(self, share: float, steps: int = 0) -> None:
        """This share of the present piece of work is done, after so many more steps."""
        self._step += steps
        whole = self._done + self._now + self._ahead
        self._share = max(self._share, (self._done + min(1.0, share) * self._now) / whole)  # never back
        self._reporter.progress(self._step, None, self._share, self._values)

    def note(self, text: str) -> None:
        """A remark of the session."""
        self._reporter.note(text)

    def warn(self, text: str) -> None:
        """A warning of the session."""
        self._reporter.warn(text)

    def experiment(self, description: Any, path: Path) -> None:
        """Nothing."""

    def evaluation(self, evaluation: Evaluation, baseline: dict[str, float], total_steps: int | None) -> None:
        """Nothing."""

    def closing(
        self, title: str, metrics: dict[str, float], baseline: dict[str, float], path: Path, facts: dict[str, str]
    ) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

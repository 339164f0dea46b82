"""What stands around a profile: the place of its trace, signals that end it cleanly, and a line of progress."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dlrun.errors import ConfigError, StorageError
from dlrun.tasks import Evaluation
from dlrun.training.callbacks import Reporter


def make_room(path: Path) -> None:
    """Find out before the measurement whether the trace can be written."""
    folder = path.parent if path.name.endswith((".json", ".json.gz")) else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise ConfigError(f"--trace {path}: takes a file that ends in .json or .json.gz, or a folder") from error
    except OSError as error:
        raise StorageError(f"--trace {path}: {error.strerror}; choose another place") from error


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end the process as Ctrl-C does, through everything that cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Live:
    """Shows how far the profile is, at the cost that a run's own progress has, and keeps the run's lines to itself."""

    def __init__(self, reporter: Reporter, seconds: float) -> None:
        self._reporter, self._began = reporter, time.perf_counter()
        self._expected = 1.5 * seconds

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """The share of the time that the measurement is expected to take."""
        done = min(1.0, (time.perf_counter() - self._began) / self._expected)
        self._reporter.progress(step, None, done, values)

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

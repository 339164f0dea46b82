"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask the run to save and end; a second one ends it at once.

SIGUSR1 is what Slurm is usually told to warn with before the time is over (``--signal=USR1@60``).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TWICE = 2.0  # seconds within which two signals are one: a batch system and a parent process may both send it
HANDLED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class StopFlag:
    """The number of the signal that asked the run to stop, or 0.

    Args:
        ask: asked for the number as long as there is none, by each question whether to stop: among several processes
            the answer is common to all.
    """

    def __init__(self, ask: Callable[[], int] | None = None) -> None:
        self.number = 0
        self._ask = ask
        self._at = 0.0

    def __bool__(self) -> bool:
        if self._ask is not None and not self.number:
            self.number = self._ask()
        return self.number != 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and now - self._at > TWICE:
            os._exit(128 + number)
        if not self.number:
            self.number, self._at = number, now


@contextmanager
def watch_signals() -> Iterator[StopFlag]:
    """A flag that the signals raise while the context lasts; inert outside the main thread."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = [getattr(signal, name) for name in HANDLED if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:  # nohup stays obeyed
            signal.signal(number, flag._receive)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

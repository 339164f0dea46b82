"""What a worker does about a database that is away for a moment: it asks again, and shows meanwhile that it lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from dlrun.errors import StorageError

PATIENCE = 10.0  # seconds in which a database that was started anew answers again
PAUSE = 0.5  # seconds between two tries

_Answer = TypeVar("_Answer")


def patiently(ask: Callable[[], _Answer], patience: float = PATIENCE) -> _Answer:
    """The answer of ``ask``, which is tried for ``patience`` seconds; raises its last StorageError."""
    until = time.monotonic() + patience
    while True:
        try:
            return ask()
        except StorageError:
            if time.monotonic() > until:
                raise
        time.sleep(PAUSE)


class Beating(Protocol):
    """A study that hears signs of life, on a connection of its own."""

    def beat(self, numbers: Iterable[int]) -> object:
        """Say that this process still works on these points."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Heart:
    """Beats for points from a thread of its own, whatever the loop is busy with: reading data may take minutes.

    Args:
        connect: opens the study once more, for this thread alone.
        every: seconds between two beats.

    Attributes:
        numbers: the points. Replaced as a whole, never changed: two threads read it.
    """

    def __init__(self, connect: Callable[[], Beating], every: float) -> None:
        self.numbers: frozenset[int] = frozenset()
        self._connect, self._every = connect, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heart", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(self._every)  # one that waits for a database that is away ends with the process

    def _live(self) -> None:
        study: Beating | None = None
        while not self._over.wait(self._every):
            try:
                study = study or self._connect()
                if self.numbers:
                    study.beat(self.numbers)
            except StorageError:  # the loop tells of it, and the next beat may come through
                continue
        if study is not None:
            study.close()

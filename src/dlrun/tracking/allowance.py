"""A share of the running time that may be spent on looking at the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Allowance:
    """Keeps the time spent on something below a share of the time elapsed.

    The next use is expected to cost what the last one did; it is allowed once it fits, so after the first use, whose
    cost nobody knows, ``spent <= share * elapsed`` holds as long as uses do not become dearer.

    Args:
        share: part of the elapsed time that may be spent, 0 to 1.
        clock: seconds that only grow; replaced in tests.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = share
        self.spent = 0.0
        self._last_cost = 0.0
        self._clock = clock
        self._start = clock()

    def allows(self) -> bool:
        """Whether one more use fits into the share of the time elapsed so far."""
        return self.spent + self._last_cost <= self.share * (self._clock() - self._start)

    def begin(self, dearer: float = 1.0) -> None:
        """Count from now on: what was spent so far is forgiven, but what a use costs stays known.

        The first use from here on may be so many times dearer.
        """
        self.spent = 0.0
        self._last_cost *= dearer
        self._start = self._clock()

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of the ``with`` block as spent, also when it raises."""
        begin = self._clock()
        try:
            yield
        finally:
            self._last_cost = self._clock() - begin
            self.spent += self._last_cost

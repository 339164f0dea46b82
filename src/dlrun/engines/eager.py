"""The step as it is written."""

from __future__ import annotations

from dlrun.algorithms import Algorithm
from dlrun.engines import Step


class Eager:
    """Runs every operation as Python reaches it."""

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's own step."""
        return algorithm.step

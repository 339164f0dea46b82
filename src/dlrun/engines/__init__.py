"""Engines: take an algorithm, return a step with the same signature that runs faster or wider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from dlrun.algorithms import Algorithm
from dlrun.tasks import Batch

Step = Callable[[Batch], dict[str, Tensor]]


class Engine(Protocol):
    """The seam everything hangs on: ``step(batch) -> dict of 0-d tensors``."""

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's step, prepared."""
        ...

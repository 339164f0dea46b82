"""Forward pass and loss compiled by ``torch.compile``; the update stays as it is written."""

from __future__ import annotations

import torch

from dlrun.algorithms import Algorithm
from dlrun.engines import Step


class Compiled:
    """Compiles the algorithm's ``forward``; backward follows from it.

    Args:
        mode: torch.compile's own: ``default``, ``reduce-overhead`` or ``max-autotune``.
    """

    def __init__(self, mode: str = "default") -> None:
        self.mode = mode

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's step with its forward pass compiled; the first call compiles."""
        algorithm.forward = torch.compile(algorithm.forward, mode=self.mode)  # type: ignore[method-assign]
        return algorithm.step

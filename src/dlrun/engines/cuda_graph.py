"""Whole training steps as CUDA graphs, and evaluation too; what cannot be one runs as it is written.

Gathering the batch, augmentation, forward and backward pass, clipping, the optimizer and the moving average are
recorded together, several steps at a time where they are short (``recorded_steps``, ``recorded_evaluation``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from dlrun.algorithms import Algorithm
from dlrun.engines import Step
from dlrun.engines.recorded_steps import SHORT, SIZES
from dlrun.engines.recording import CudaRecorder, Recorder, Ungraphable
from dlrun.errors import ConfigError

if TYPE_CHECKING:
    from dlrun.engines.compiled import Compiled


class CudaGraph:
    """Records steps and replays them.

    Args:
        steps: in one recording; ``auto`` records several together when a step takes less than a millisecond.
        compiled: also compile the loss and its gradient, as ``engine=compile`` does.
        batch_size: examples of a whole batch, for the compiler.

    Attributes:
        sizes: steps in one recording, from the largest to 1.
        short: seconds under which a step is recorded with others.

    Raises:
        ConfigError: ``steps`` is below 1.
    """

    def __init__(
        self, steps: int | Literal["auto"] = "auto", compiled: bool = False, batch_size: int | None = None
    ) -> None:
        if steps != "auto" and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
            raise ConfigError(f"engine.steps={steps}: takes auto, or a number of steps of at least 1")
        self.sizes: Sequence[int] = SIZES if steps == "auto" else tuple(sorted({steps, 1}, reverse=True))
        self.short = SHORT if steps == "auto" else math.inf
        self._compiled = _compiler(batch_size) if compiled else None

    def refusal(self, algorithm: type, device: torch.device) -> str:
        """Why it cannot be used with these, as the end of a sentence about it; empty where it can."""
        return "" if self._compiled is None else self._compiled.refusal(algorithm, device)

    def choice(self, algorithm: Any, device: torch.device) -> tuple[str, str]:
        """What it comes to with these, and why."""
        if device.type != "cuda":
            return "eager", f"CUDA graphs need a CUDA device, and this is {device}"
        why = algorithm.ungraphable
        return ("eager", why) if why else ("cuda_graph", "whole steps recorded; what cannot be runs as it is written")

    def prepare(self, algorithm: Algorithm) -> Step:
        """The step that is recorded."""
        return algorithm.step if self._compiled is None else self._compiled.prepare(algorithm)

    def recorder(self, device: torch.device) -> Recorder:
        """What records on this device.

        Raises:
            Ungraphable: nothing does.
        """
        if device.type != "cuda":
            raise Ungraphable(f"CUDA graphs need a CUDA device, and this is {device}")
        return CudaRecorder(device)


def _compiler(batch_size: int | None) -> Compiled:
    """Imported when it is asked for: most runs are not compiled."""
    from dlrun.engines.compiled import Compiled

    return Compiled(batch_size=batch_size)

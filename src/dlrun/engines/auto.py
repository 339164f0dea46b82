"""The engine that is best for a run: recorded steps on a GPU, steps as they are written on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from dlrun.algorithms import Algorithm
from dlrun.engines import Step
from dlrun.engines.cuda_graph import CudaGraph
from dlrun.engines.recorded_steps import SHORT, SIZES
from dlrun.engines.recording import Recorder


class Auto:
    """``cuda_graph`` on a GPU, where a step that cannot be recorded runs as it is written; elsewhere ``eager``."""

    sizes, short = SIZES, SHORT

    def choice(self, algorithm: Any, device: torch.device) -> tuple[str, str]:
        """What it comes to with these, and why."""
        if device.type != "cuda":
            return "eager", "auto: the CPU waits for no launches"
        name, why = CudaGraph().choice(algorithm, device)
        return name, f"auto: {why}"

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's own step."""
        return algorithm.step

    def recorder(self, device: torch.device) -> Recorder | None:
        """What records on this device; None where nothing does."""
        return CudaGraph().recorder(device) if device.type == "cuda" else None

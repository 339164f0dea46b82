"""Number formats of the forward pass: full 32-bit, TensorFloat-32, and mixed 16-bit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from dlrun.errors import ConfigError, did_you_mean

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = ("float32", "tfloat32", *LOW)


class Precision:
    """One number format. Weights and optimizer state are 32-bit in all of them.

    Raises:
        ConfigError: an unknown format.
    """

    def __init__(self, dtype: str = "float32") -> None:
        if dtype not in FORMATS:
            raise ConfigError(f"precision.dtype={dtype}: no such format{did_you_mean(dtype, FORMATS)}")
        self.dtype = dtype

    def prepare(self) -> None:
        """Set the process-wide switch for TensorFloat-32 products."""
        torch.set_float32_matmul_precision("highest" if self.dtype == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = self.dtype != "float32"

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A re-enterable context for the forward pass and the loss."""
        if self.dtype not in LOW:
            return nullcontext()
        return torch.autocast(device.type, LOW[self.dtype])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """The loss scaler that float16's small range needs; inert otherwise."""
        return torch.amp.GradScaler(device.type, enabled=self.dtype == "float16")

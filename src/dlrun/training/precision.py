"""Number formats of the forward pass: full 32-bit, TensorFloat-32, and mixed 16-bit; which one suits a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError, did_you_mean
from dlrun.models.operations import count_operations

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = ("float32", "tfloat32", *LOW)

# When bfloat16 pays on a GPU, of one step: it halves the time of the matrix products, and for each product of the
# forward pass autocast adds three kernels (rounding the weight, rounding the input, widening the weight's gradient).
# With F operations, n products, a peak of P and t for a kernel it pays where F / (2 P) > 3 n t. P is TensorFloat-32's
# on an H200 without sparsity, from its data sheet; a smaller GPU takes longer for the products, so there the rule errs
# on the side of TensorFloat-32. t is the smallest time of a kernel (../shared/PERFORMANCE.md). The threshold follows
# from these figures: 5.9 GFLOP per product. It has not been measured on a GPU.
TF32_PEAK = 495e12  # operations a second
KERNEL = 2e-6  # seconds
CASTS = 3  # kernels for each product
WORTH = 2 * CASTS * KERNEL * TF32_PEAK  # operations of a step for each of its products


class Precision:
    """One number format. Weights and optimizer state are 32-bit in all of them.

    Args:
        dtype: one of ``FORMATS``, or ``auto``, which ``settled`` turns into one of them.

    Attributes:
        reason: why it was chosen; for people.

    Raises:
        ConfigError: an unknown format.
    """

    def __init__(self, dtype: str = "float32") -> None:
        if dtype not in (*FORMATS, "auto"):
            raise ConfigError(f"precision.dtype={dtype}: no such format{did_you_mean(dtype, (*FORMATS, 'auto'))}")
        self.dtype = dtype
        self.reason = "as asked"

    def settled(
        self,
        node: dict[str, Any],
        device: torch.device,
        name: str,
        build: Callable[[], nn.Module],
        inputs: Tensor,
        batch_size: int,
    ) -> Precision:
        """This format, or the one that ``auto`` comes to: a function of the configuration and the device alone.

        On the CPU it is float32. On a GPU it is the lowest format in which the network was proved as accurate as in
        float32 (its ``lowest_precision``, see scripts/precision_proof.py; TensorFloat-32 where it has none), and
        bfloat16 only where the GPU has it and the step is large enough to gain by it.

        Args:
            node: of the configuration; gets the format that was chosen, so that a run keeps it when it goes on.
            name: of the model, for people.
            build: makes the network on the CPU; called only where it is asked something.
            inputs: two examples (2, ...).
            batch_size: examples of a step.
        """
        if self.dtype != "auto":
            return self
        chosen = _choice(device, name, build, inputs, batch_size)
        node["dtype"] = chosen.dtype
        return chosen

    def prepare(self) -> None:
        """Set the process-wide switch for TensorFloat-32 products."""
        full = self.dtype in ("float32", "auto")
        torch.set_float32_matmul_precision("highest" if full else "high")
        torch.backends.cudnn.allow_tf32 = not full

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A re-enterable context for the forward pass and the loss."""
        if self.dtype not in LOW:
            return nullcontext()
        return torch.autocast(device.type, LOW[self.dtype])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """The loss scaler that float16's small range needs; inert otherwise."""
        return torch.amp.GradScaler(device.type, enabled=self.dtype == "float16")


def _choice(
    device: torch.device, name: str, build: Callable[[], nn.Module], inputs: Tensor, batch_size: int
) -> Precision:
    if device.type != "cuda":
        return _chosen("float32", "auto: on a GPU it may be lower")
    lowest = getattr(model := build(), "lowest_precision", "tfloat32")
    if lowest != "bfloat16":
        needed = "it needs it" if lowest == "float32" else "bfloat16 is not proved equal for it"
        return _chosen(lowest, f"auto: model={name}, {needed}")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return _chosen("tfloat32", "auto: this GPU has no bfloat16")
    work = count_operations(model, inputs)
    operations = 3 * work.operations * batch_size / len(inputs)  # backward is two products for each one of forward
    size = f"{operations / 1e9:,.3g} GFLOP per step in {work.products} products"
    if operations <= WORTH * work.products:
        return _chosen("tfloat32", f"auto: {size}, too little for bfloat16 to pay for its casts")
    return _chosen("bfloat16", f"auto: proved equal for model={name}; {size}")


def _chosen(dtype: str, reason: str) -> Precision:
    precision = Precision(dtype)
    precision.reason = reason
    return precision

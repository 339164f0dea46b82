"""How parameters change: one file per algorithm."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from dlrun.tasks import Batch


class Algorithm(Protocol):
    """One way to change parameters. Counts no steps, logs nothing, saves nothing.

    Attributes:
        in_pieces: whether a batch may be cut into pieces whose gradients are added.
        scaled_loss: whether it works on a loss scaled for float16.
    """

    in_pieces: ClassVar[bool]
    scaled_loss: ClassVar[bool]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch; what to log, as 0-d tensors that nothing has waited for."""
        ...

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch (0-d, differentiable) and what to log; the part an engine may compile."""
        ...

"""Windows of one long sequence - a text, a series - cut when they are asked for.

The sequence lives on the device once; a batch of windows is one gather. Overlapping windows cost no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Inputs (B, T, ...) and what comes after them, from one sequence.

    Attributes:
        values: (N,) int64 tokens, or (N, F) float32.
        starts: (M,) int64, the first position of each window.
        length: T, of the input.
        horizon: 0, and the targets (B, T) are the inputs shifted by one; H > 0, and they are the H values (B, H, D)
            after the input.
        columns: D, the first columns of a series, which are the targets; 0 for all.
        slack: in training each epoch shifts all windows together by a random 0 to ``slack`` positions, so that windows
            that lie side by side are not cut at the same places for ever.
    """

    values: Tensor
    starts: Tensor
    length: int
    horizon: int = 0
    columns: int = 0
    slack: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def targets(self) -> Tensor:
        """The whole sequence: what a task learns its baseline from."""
        return self.values

    def gather(self, rows: Tensor, shift: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the windows of these indices (B,), all shifted by so many positions."""
        span = torch.arange(self.length + (self.horizon or 1), device=self.values.device)
        whole = self.values[(self.starts.index_select(0, rows) + shift)[:, None] + span]
        if not self.horizon:
            return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()
        ahead = whole[:, self.length :]
        if self.columns:
            ahead = ahead[..., : self.columns]
        return whole[:, : self.length].contiguous(), ahead.contiguous()

    def take(self, rows: Tensor) -> Windows:
        """The windows of some indices."""
        return replace(self, starts=self.starts[rows])

    def to(self, device: torch.device) -> Windows:
        """The same on a device."""
        return replace(self, values=self.values.to(device), starts=self.starts.to(device))

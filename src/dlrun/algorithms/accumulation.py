"""Backpropagation with the batch cut into pieces: the same gradient in less memory.

Differs from whole batches in batch normalisation alone, which sees one piece at a time.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from dlrun.algorithms import Differentiates
from dlrun.data.streaming import batch_sizes
from dlrun.tasks import Batch
from dlrun.training.updater import Updater


class Accumulation:
    """Adds the gradients of ``pieces`` pieces of each batch, each weighted by its share of the examples."""

    in_pieces: ClassVar[bool] = True
    scaled_loss: ClassVar[bool] = True
    consecutive: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    unpackable: ClassVar[str] = "trainer.accumulate cuts every batch into pieces"
    ungraphable: ClassVar[str] = ""

    def __init__(self, inner: Differentiates, updater: Updater, pieces: int) -> None:
        self.inner = inner
        self.updater = updater
        self.pieces = pieces

    @property
    def model(self) -> Any:
        """The network that the algorithm inside trains."""
        return self.inner.model

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of gradient descent on a batch."""
        inputs, targets = batch
        self.updater.zero_grad()
        total: dict[str, Tensor] = {}
        sizes = batch_sizes(len(inputs), max(2, -(-len(inputs) // self.pieces)))  # batch normalisation needs two
        for x, y in zip(inputs.split(sizes), targets.split(sizes), strict=True):
            share = len(x) / len(inputs)
            loss, logs = self.forward((x, y))
            self.updater.backward(loss * share)
            total = {name: total.get(name, 0) + value * share for name, value in logs.items()}
        self.updater.step()
        return total

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one piece."""
        return self.inner.forward(batch)

    def state_dict(self) -> dict[str, Any]:
        """What the algorithm inside carries."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.inner.load_state_dict(state)

"""Backpropagation and gradient descent, as the textbook writes them (Rumelhart, Hinton and Williams 1986)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dlrun.tasks import Batch, Differentiable
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater


class Backpropagation:
    """Zero the gradients, forward and loss, backward, step."""

    in_pieces: ClassVar[bool] = True
    scaled_loss: ClassVar[bool] = True
    consecutive: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    unpackable: ClassVar[str] = ""
    ungraphable: ClassVar[str] = ""

    def __init__(self, model: nn.Module, task: Differentiable, updater: Updater, precision: Precision) -> None:
        self.model = model
        self.task = task
        self.updater = updater
        self.autocast = precision.autocast(updater.parameters[0].device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of gradient descent on a batch."""
        self.updater.zero_grad()
        loss, logs = self.forward(batch)
        self.updater.backward(loss)
        self.updater.step()
        return logs

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the batch, through the network, in the chosen precision."""
        with self.autocast:
            return self.task.loss(self.model, batch)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is carried from step to step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""

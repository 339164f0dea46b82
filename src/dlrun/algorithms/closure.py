"""Backpropagation for optimizers that look at the loss several times within one step, such as L-BFGS."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dlrun.tasks import Batch, Differentiable
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater


class Closure:
    """Hands the optimizer a function that computes loss and gradients anew.

    A line search compares losses, so it can do with neither scaled ones nor those of a piece of the batch.
    """

    in_pieces: ClassVar[bool] = False
    scaled_loss: ClassVar[bool] = False
    consecutive: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    unpackable: ClassVar[str] = "each trial searches along a line of its own, a different number of times"
    ungraphable: ClassVar[str] = "its line search looks at the loss to decide how often it looks again"

    def __init__(self, model: nn.Module, task: Differentiable, updater: Updater, precision: Precision) -> None:
        self.model = model
        self.task = task
        self.updater = updater
        self.autocast = precision.autocast(updater.parameters[0].device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimizer; the logs are of the weights before it."""
        seen: list[dict[str, Tensor]] = []

        def gradient() -> Tensor:
            self.updater.zero_grad()
            loss, logs = self.forward(batch)
            self.updater.backward(loss)
            for clip in self.updater.clips:
                clip(self.updater.parameters)
            seen.append(logs)
            return loss

        self.updater.optimizer.step(gradient)  # type: ignore[arg-type]
        return seen[0]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the batch in the chosen precision."""
        with self.autocast:
            return self.task.loss(self.model, batch)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is carried from step to step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""

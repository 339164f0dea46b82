"""The best network of a run so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dlrun.tasks import Monitor


@dataclass
class Best:
    """Its step, its monitored value, all its metrics and a copy of its weights.

    The weights are None when a newer best checkpoint took their place on disk before the step's own was written. What
    is known of them still serves the comparison, and an exact replay finds the newer network again at its own step.
    """

    step: int
    value: float
    metrics: dict[str, float]
    model: dict[str, Tensor] | None

    def beaten_by(self, value: float, loss: float, goal: Monitor) -> bool:
        """Whether another network is better; among equals the one with the lower loss is."""
        return goal.improves(value, self.value) or (value == self.value and loss < self.metrics.get("loss", self.value))

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return self.summary() | {"model": self.model}

    def summary(self) -> dict[str, Any]:
        """Without the weights."""
        return {"step": self.step, "value": self.value, "metrics": self.metrics}


def copied(model: nn.Module) -> dict[str, Tensor]:
    """The network's weights and buffers, which training goes on to change."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

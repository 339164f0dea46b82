"""Truncated backpropagation through time: the state goes on from batch to batch, the gradient stops at the border.

Source: R. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories", Neural Computation 2(4), 1990, as BPTT(h; h') with h = h' = T, the steps of one batch; in this form for
language models by T. Mikolov et al. (2010).
Differs from it in: 1. the rows of a batch are as many places of the text read at once; 2. the state is carried on over
the end of an epoch, where the text starts again.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from dlrun.models.recurrent import Stateful, Unrolls
from dlrun.tasks import Batch, Differentiable
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater


class TruncatedBackpropagation:
    """Backpropagation with the hidden state kept between batches that continue one another."""

    in_pieces: ClassVar[bool] = False
    scaled_loss: ClassVar[bool] = True
    consecutive: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("unroll",)
    unpackable: ClassVar[str] = "the hidden state it carries belongs to one network"
    ungraphable: ClassVar[str] = ""

    def __init__(self, model: Unrolls, task: Differentiable, updater: Updater, precision: Precision) -> None:
        self.model = model
        self.stateful = Stateful(model)
        self.task = task
        self.updater = updater
        self.device = updater.parameters[0].device
        self.autocast = precision.autocast(self.device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of gradient descent on a batch, from the state that the one before it left."""
        self.updater.zero_grad()
        loss, logs = self.forward(batch)
        self.updater.backward(loss)
        self.updater.step()
        return logs

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the batch, through the network, in the chosen precision."""
        with self.autocast:
            return self.task.loss(self.stateful, batch)

    def state_dict(self) -> dict[str, Any]:
        """The hidden state."""
        return {"hidden": list(self.stateful.state or ())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.stateful.state = tuple(part.to(self.device) for part in state["hidden"]) or None

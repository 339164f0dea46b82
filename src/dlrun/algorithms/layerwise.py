"""Greedy layer-by-layer pretraining by contrastive divergence, then backpropagation through the whole network.

G. Hinton, S. Osindero, Y. Teh, "A Fast Learning Algorithm for Deep Belief Nets", Neural Computation 18, 2006;
G. Hinton, R. Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 313, 2006. The layers
of ``model.stack()`` take turns from the bottom up, each a restricted Boltzmann machine that learns the features of
those below it by CD-k; after the last one ``model.unroll_stack()``, where there is one, builds the network from what
they have learnt, and the rest of the run is gradient descent on the task's loss.
Differs from them in: 1. turns are counted in steps; 2. the rate of Gaussian hidden units is a hundredth of the others',
as in the authors' programs. As there, hidden states are drawn and reconstructions are means.

Shapes: B batch, V visible units, H hidden units of the layer that learns.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dlrun.algorithms.contrastive_divergence import statistics
from dlrun.errors import ConfigError
from dlrun.models.rbm import RBMView
from dlrun.tasks import Batch, Differentiable
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater


class Layerwise:
    """Contrastive divergence for each layer in turn, then backpropagation.

    The rate of the second half is the optimizer's; a schedule counts from the beginning of the run, so a warm-up of as
    many steps as the pretraining takes lets its curve span the rest.

    Args:
        model: has ``stack() -> list[RBMView]``, its layers from the bottom up, and perhaps ``unroll_stack()``.
        task: gives the loss.
        updater: moves the weights in the second half.
        precision: of the second half.
        steps_per_layer: length of each turn.
        k: Gibbs steps of contrastive divergence.
        rate: its learning rate, for binary hidden units.
        momentum: its momentum.
        weight_decay: the L2 penalty's factor on the weights.

    Raises:
        ConfigError: a number is out of its range.
    """

    in_pieces: ClassVar[bool] = False
    scaled_loss: ClassVar[bool] = True
    consecutive: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("stack",)
    pretrains: ClassVar[bool] = True
    unpackable: ClassVar[str] = "the layers are pretrained on samples, with no loss that could be stacked"
    ungraphable: ClassVar[str] = ""

    def __init__(
        self,
        model: nn.Module,
        task: Differentiable,
        updater: Updater,
        precision: Precision,
        steps_per_layer: int = 500,
        k: int = 1,
        rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0002,
    ) -> None:
        if steps_per_layer < 0 or k < 1:
            raise ConfigError(
                f"algorithm.steps_per_layer={steps_per_layer} and algorithm.k={k} must be at least 0 and 1"
            )
        self.model, self.task, self.updater = model, task, updater
        self.steps_per_layer, self.k = steps_per_layer, k
        self.rate, self.momentum, self.weight_decay = rate, momentum, weight_decay
        self.autocast = precision.autocast(updater.parameters[0].device)
        self.pretraining = steps_per_layer * len(self._stack())
        self.done = 0
        self.velocity: list[Tensor] = []  # of the layer that learns: weight, visible bias, hidden bias
        self.logs: dict[str, Tensor] = {}  # what does not change in a step keeps its last value

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the layer whose turn it is, or of the whole network.

        Logs the task's loss (while a layer learns: as it was when its turn began) and ``reconstruction``, the squared
        error of the layer's reconstruction, summed over its visible units (afterwards: the last layer's last).
        """
        layer, place = divmod(self.done, self.steps_per_layer) if self.done < self.pretraining else (-1, 0)
        if self.done == self.pretraining:
            self._unroll()
        if layer < 0:
            self.logs = self.logs | self._descend(batch)
        else:
            if place == 0:
                self._begin(layer, batch)
            self.logs = self.logs | {"reconstruction": self._learn(layer, batch[0].flatten(1))}
        self.done += 1
        return self.logs

    def phase(self, ahead: int) -> int | None:
        """Which layer learns in the step after so many more, -1 for all; None where a turn begins."""
        done = self.done + ahead
        if done > self.pretraining:
            return -1
        layer, place = divmod(done, self.steps_per_layer) if self.steps_per_layer else (0, 0)
        return layer if place else None

    def count(self, steps: int) -> None:
        """Count steps that were replayed."""
        self.done += steps

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the batch, through the network, in the chosen precision."""
        with self.autocast:
            return self.task.loss(self.model, batch)

    def _descend(self, batch: Batch) -> dict[str, Tensor]:
        self.updater.zero_grad()
        loss, logs = self.forward(batch)
        self.updater.backward(loss)
        self.updater.step()
        return logs

    def _stack(self) -> list[RBMView]:
        views: list[RBMView] = self.model.stack()  # type: ignore[operator]
        return views

    @torch.no_grad()
    def _begin(self, layer: int, batch: Batch) -> None:
        view = self._stack()[layer]
        self.velocity = [torch.zeros_like(part) for part in (view.weight, view.visible_bias, view.hidden_bias)]
        self.logs = self.logs | self.forward(batch)[1]

    @torch.no_grad()
    def _learn(self, layer: int, data: Tensor) -> Tensor:
        """One step of contrastive divergence; returns the reconstruction's squared error, 0-d."""
        *below, view = self._stack()[: layer + 1]
        for lower in below:
            data = lower.hidden_mean(data)
        first = view.hidden_mean(data)
        visible = reconstruction = view.visible_mean(view.hidden_units.sample(first))
        hidden = view.hidden_mean(visible)
        for _ in range(self.k - 1):
            visible = view.visible_mean(view.hidden_units.sample(hidden))
            hidden = view.hidden_mean(visible)
        parts = (view.weight, view.visible_bias, view.hidden_bias)
        phases = zip(statistics(data, first), statistics(visible, hidden), strict=True)
        uphill = [positive - negative for positive, negative in phases]
        uphill[0] -= self.weight_decay * view.weight
        self.updater.share(uphill)
        for part, velocity, direction in zip(parts, self.velocity, uphill, strict=True):
            velocity.mul_(self.momentum).add_(direction, alpha=self.rate * view.hidden_units.rate)
            part.add_(velocity)
        return (data - reconstruction).square().sum(1).mean()

    @torch.no_grad()
    def _unroll(self) -> None:
        self.velocity = []
        unroll = getattr(self.model, "unroll_stack", None)
        if unroll is not None and self.pretraining:
            unroll()

    def state_dict(self) -> dict[str, Any]:
        """How many steps are done, the learning layer's velocity, and the last logs."""
        return {"done": self.done, "velocity": self.velocity, "logs": self.logs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        device = self.updater.parameters[0].device
        self.done = state["done"]
        self.velocity = [velocity.to(device) for velocity in state["velocity"]]
        self.logs = {name: value.to(device) for name, value in state["logs"].items()}

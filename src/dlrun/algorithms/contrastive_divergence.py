"""Contrastive divergence: the gradient of log p(v) with its second half taken from a short Markov chain.

d log p(v) / dW = <h v'>_data - <h v'>_model, and so for the biases: the positive phase clamps the data, the negative
phase lets the machine dream. CD-k (Hinton 2002) starts the dream at the data and takes k Gibbs steps; persistent CD
(T. Tieleman, "Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient", ICML 2008) lets
it go on from where the last step left it. Momentum, weight decay on weights alone and the sparsity target follow
G. Hinton, "A Practical Guide to Training Restricted Boltzmann Machines", 2010 (sections 3, 9, 10 and 11).
Differs from them in: 1. the visible states of the negative phase are drawn (the guide takes their means): a better
density for a little noise; 2. persistent chains start with all hidden units off.
With samples v~ of the negative phase the gradient equals that of mean F(v) - mean F(v~), which the tests use.

Shapes: B batch, M chains, V visible units, H hidden units.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun.errors import ConfigError
from dlrun.models.rbm import RBM, RBMView
from dlrun.tasks import Batch
from dlrun.training.updater import Updater

Statistics = tuple[Tensor, Tensor, Tensor]


def statistics(visible: Tensor, hidden: Tensor) -> Statistics:
    """<h v'> (H, V), <v> (V,) and <h> (H,): means over the rows of states (B, V) and (B, H)."""
    return hidden.T @ visible / len(visible), visible.mean(0), hidden.mean(0)


class ContrastiveDivergence:
    """Positive phase, negative phase, step.

    Args:
        model: a restricted Boltzmann machine.
        updater: moves its parameters.
        k: Gibbs steps of the negative phase.
        persistent: go on with the chains of the last step instead of starting at the data.
        chains: how many, when they persist.
        weight_decay: the L2 penalty's factor on the weights; biases have none.
        sparsity: how often a hidden unit should be on.
        sparsity_cost: strength of the pull towards it; 0 is off.

    Raises:
        ConfigError: a number is out of its range.
    """

    in_pieces: ClassVar[bool] = False
    scaled_loss: ClassVar[bool] = False
    consecutive: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("view",)
    unpackable: ClassVar[str] = "contrastive divergence has no loss that could be stacked; its gradient is from samples"
    ungraphable: ClassVar[str] = ""

    def __init__(
        self,
        model: RBM,
        updater: Updater,
        k: int = 1,
        persistent: bool = False,
        chains: int = 100,
        weight_decay: float = 0.0,
        sparsity: float = 0.1,
        sparsity_cost: float = 0.0,
    ) -> None:
        for key, value in (("k", k), ("chains", chains)):
            if value < 1:
                raise ConfigError(f"algorithm.{key}={value} must be at least 1")
        if not 0 < sparsity < 1:
            raise ConfigError(f"algorithm.sparsity={sparsity} is no share of the time; use for example 0.1")
        self.model, self.updater, self.k, self.persistent = model, updater, k, persistent
        self.weight_decay, self.sparsity, self.sparsity_cost = weight_decay, sparsity, sparsity_cost
        self.chains = model.hidden_bias.new_zeros(chains if persistent else 0, len(model.hidden_bias))  # (M, H)
        self.activity = torch.full_like(model.hidden_bias, sparsity, requires_grad=False)  # (H,)

    @torch.no_grad()
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch; logs the squared error of its reconstruction, summed over the visible units."""
        view, data = self.model.view(), batch[0].flatten(1)
        hidden = view.hidden_mean(data)  # (B, H)
        reconstruction = view.visible_mean(view.hidden_units.sample(hidden))  # (B, V)

        positive = statistics(data, hidden - self._pull(hidden))
        start = view.visible_mean(self.chains) if self.persistent else reconstruction
        negative = statistics(*self._dream(view, start))

        self.updater.zero_grad()
        parameters = (self.model.weight, self.model.visible_bias, self.model.hidden_bias)
        for parameter, of_data, of_model in zip(parameters, positive, negative, strict=True):
            parameter.grad = of_model - of_data  # the optimizer descends; log p is to rise
        self.model.weight.grad.add_(self.model.weight, alpha=self.weight_decay)  # type: ignore[union-attr]
        self.updater.step()
        return {"reconstruction": (data - reconstruction).square().sum(1).mean()}

    def _dream(self, view: RBMView, mean: Tensor) -> tuple[Tensor, Tensor]:
        """k Gibbs steps on from the means of visible units: their states and the means of the hidden units."""
        for remaining in reversed(range(self.k)):
            visible = view.visible_units.sample(mean)
            hidden = view.hidden_mean(visible)
            if remaining:
                mean = view.visible_mean(view.hidden_units.sample(hidden))
        if self.persistent:
            self.chains = view.hidden_units.sample(hidden)
        return visible, hidden

    def _pull(self, hidden: Tensor) -> Tensor:
        """Gradient (H,) of the sparsity penalty with regard to the hidden units' inputs (the guide, 11)."""
        self.activity.lerp_(hidden.mean(0), 0.1)  # the guide: a decaying average of 0.9 to 0.99
        return self.sparsity_cost * (self.activity - self.sparsity)

    def state_dict(self) -> dict[str, Any]:
        """The chains, and how active the hidden units were."""
        return {"chains": self.chains, "activity": self.activity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.chains = state["chains"].to(self.chains.device)
        self.activity = state["activity"].to(self.activity.device)

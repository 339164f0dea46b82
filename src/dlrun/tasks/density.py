"""Density: how likely the data are under a model that gives each example a free energy.

Shape legend: B examples of a batch, N of a whole part, V visible units, H hidden units.

There is no loss to differentiate: an algorithm such as contrastive divergence sets data against the model's samples.
While training the pseudo-likelihood tells how it goes (J. Besag, 1975); the test part gets the log-likelihood, in nats
per example. The baseline is the base-rate model: every visible unit on its own, with the training part's mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.models.rbm import RBM, RBMView, mean_and_count
from dlrun.tasks import Batch, Logs, Measured, Monitor, Source, made_up_inputs
from dlrun.tasks.annealed_importance import enumerable, estimate, exact_log_z

GIBBS_STEPS = 500


class Density:
    """Free energies (B,) of examples.

    Args:
        loss: none.
        facts: of the data.
        visible: kind of the model's visible units; the pseudo-likelihood is for ``bernoulli`` ones.
        ais_chains: chains of the annealed importance sampling on the test part.
        ais_steps: temperatures each of them goes through.

    Raises:
        ConfigError: the inputs are tokens, or a number is out of its range.
    """

    name: ClassVar[str] = "density"
    pixels: ClassVar[str] = "binary"
    requires: ClassVar[tuple[str, ...]] = ("view",)
    usual_loss: ClassVar[str] = ""
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "rows"

    def __init__(
        self,
        loss: None,
        facts: Facts,
        visible: str = "bernoulli",
        ais_chains: int = 100,
        ais_steps: int = 10_000,
    ) -> None:
        if facts.vocabulary:
            raise ConfigError(f"task=density needs numbers or images, but '{facts.name}' is tokens; use data=mnist")
        if ais_chains < 2 or ais_steps < 29:
            raise ConfigError(
                f"task.ais_chains={ais_chains} and task.ais_steps={ais_steps} must be at least 2 and 29; "
                "use for example 100 and 10000"
            )
        self.facts = facts
        self.ais_chains, self.ais_steps = ais_chains, ais_steps
        self.binary = visible == "bernoulli"
        best = "pseudo_likelihood" if self.binary else "reconstruction"
        self.monitor = Monitor(best, higher_is_better=self.binary)
        self.mean = torch.zeros(0)
        self.count = 0

    def out_shape(self) -> tuple[int, ...]:
        """One number per example."""
        return ()

    def metric_names(self) -> tuple[str, ...]:
        """What the validation part is measured by."""
        return ("pseudo_likelihood", "reconstruction") if self.binary else ("reconstruction",)

    def output_layer(self) -> tuple[str, str]:
        """The output in words, and why."""
        return "free energy, one number", "exp of its negative is the density, up to a constant"

    def example(self) -> Batch:
        """Two examples of zeros."""
        return made_up_inputs(self.facts), torch.zeros(2)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Learn the mean of every visible unit."""
        mean, self.count, _ = mean_and_count(batches)
        self.mean = mean.cpu()

    def base(self, view: RBMView) -> Tensor:
        """Visible biases (V,) of the base-rate model."""
        return view.visible_units.bias(self.mean.to(view.visible_bias.device), self.count)

    def measure(self, model: RBM, batches: Iterable[Batch], split: str) -> Measured:
        """Pseudo-likelihood and reconstruction of a part; of the test part the log-likelihood too."""
        view = model.view()
        with torch.autocast(view.weight.device.type, enabled=False):  # sums of many logarithms, and their differences
            return self._measure(view, batches, split)

    def _measure(self, view: RBMView, batches: Iterable[Batch], split: str) -> Measured:
        base = self.base(view)
        found = [self._measure_batch(view, base, inputs.flatten(1)) for inputs, _ in batches]
        means = {name: torch.cat([rows[name] for rows in found]).double().mean() for name in found[0]}
        chance = {"reconstruction": means.pop("base_reconstruction"), "log_likelihood": means.pop("base")}
        energy = means.pop("free_energy")
        if self.binary:
            chance["pseudo_likelihood"] = chance["log_likelihood"]  # of independent units they are the same
        if split == "test":
            means |= self._likelihood(view, base, energy)
        return Measured(means, {name: value for name, value in chance.items() if name in means})

    def _measure_batch(self, view: RBMView, base: Tensor, visible: Tensor) -> Logs:
        """Numbers (B,) of one batch (B, V), by name."""
        units = view.visible_units
        found = {
            "reconstruction": squared_error(visible, view.visible_mean(view.hidden_mean(visible))),
            "base_reconstruction": squared_error(visible, units.mean(base)),
            "base": visible @ base - units.carrier(visible) - units.log_partition(base),
            "free_energy": view.free_energy(visible),
        }
        if self.binary:
            found["pseudo_likelihood"] = pseudo_log_likelihood(view, visible)
        return {name: value.float() for name, value in found.items()}

    def _likelihood(self, view: RBMView, base: Tensor, energy: Tensor) -> Logs:
        """Mean log-likelihood of examples of this mean free energy, with its spread; exactly too when small enough."""
        annealed = estimate(view, base, self.ais_steps, self.ais_chains)
        found = {"log_likelihood": -energy - annealed.log_z, "log_likelihood_spread": annealed.spread}
        if enumerable(view):
            found["exact_log_likelihood"] = -energy - exact_log_z(view)
        return found

    def sample(self, model: RBM, count: int) -> Tensor:
        """Fantasies (count, *input_shape): means of the visible units after Gibbs steps from the base-rate model."""
        view = model.view()
        mean = view.visible_units.mean(self.base(view).expand(count, -1))
        for _ in range(GIBBS_STEPS):
            mean = view.visible_mean(view.sample_hidden(view.visible_units.sample(mean)))
        return mean.reshape(count, *self.facts.input_shape)

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: its free energy, the lower the likelier."""
        return [[{"free_energy": round(value, 4)}] for value in outputs.tolist()]

    def state(self) -> dict[str, Any]:
        """Means of the training part, and how many examples they are of."""
        return {"mean": self.mean, "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the means of a checkpoint."""
        self.mean, self.count = state["mean"], state["count"]


def squared_error(visible: Tensor, guess: Tensor) -> Tensor:
    """Squared error of each example, summed over its units: (B, V) -> (B,)."""
    return (visible - guess).square().sum(1)


def pseudo_log_likelihood(view: RBMView, visible: Tensor) -> Tensor:
    """Unbiased estimate of sum_i log p(v_i | the other units), from one unit i drawn per example: (B, V) -> (B,).

    V log sigmoid(F(v with unit i turned over) - F(v)); one column of W says how the hidden units' inputs change.
    """
    rows, units = visible.shape
    flipped = torch.randint(units, (rows,), device=visible.device)
    change = 1 - 2 * visible.gather(1, flipped[:, None])  # (B, 1): +1 turns on, -1 turns off
    x = view.up(visible)
    y = x + change * view.weight.T[flipped]
    difference = view.hidden_units.log_ratio(x, y) - change[:, 0] * view.visible_bias[flipped]
    return units * F.logsigmoid(difference)

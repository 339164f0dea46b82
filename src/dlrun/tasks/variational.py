"""The variational bound: log p(x) >= E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)), in nats per example.

Source: D. Kingma, M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014: equation (10) with one sample of the code,
z = mean + exp(log_variance / 2) noise, and the divergence of a diagonal Gaussian from N(0, I) in closed form (appendix
B). The KL weight is beta of I. Higgins et al., "beta-VAE", ICLR 2017; 1 is the bound. Grey pixels are drawn as 0 or 1
each time they are seen (Y. Burda et al., "Importance Weighted Autoencoders", ICLR 2016), so that the Bernoulli
likelihood is one; the parts that are measured are drawn with a fixed seed.

Shape legend: B examples of a batch, N of a whole part, F values of one example, K dimensions of the code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Source, made_up_inputs
from dlrun.tasks.likeness import Averages, Likeness

TEST_SAMPLES = 10  # of each code when the test part is measured: a tighter estimate of the same bound


class Variational:
    """A model with ``posterior(x)`` and ``decode(z)`` against the inputs; the data's own targets are not used.

    Args:
        loss: binary cross-entropy for a Bernoulli likelihood of values from 0 to 1, squared error for a Gaussian one.
        facts: of the data.
        kl_weight: weight of the divergence in the loss; the metric ``elbo`` always has 1.
        binarize: draw values from 0 to 1 as 0 or 1; false takes them as they are, which is no likelihood.
        deviation: of the Gaussian likelihood, in the range the network sees.

    Raises:
        ConfigError: a loss that is no likelihood, a negative weight, or a deviation that is not positive.
    """

    name: ClassVar[str] = "variational"
    pixels: ClassVar[str] = "unit"
    requires: ClassVar[tuple[str, ...]] = ("posterior", "decode", "code_features")
    usual_loss: ClassVar[str] = "BinaryCrossEntropy"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "images"

    def __init__(
        self, loss: Loss, facts: Facts, kl_weight: float = 1.0, binarize: bool = True, deviation: float = 1.0
    ) -> None:
        self.likeness = Likeness(loss, self.name, facts)
        if getattr(loss, "label_smoothing", 0.0):
            raise ConfigError("loss.label_smoothing would make the bound another one: use loss.label_smoothing=0")
        if kl_weight < 0:
            raise ConfigError(f"task.kl_weight={kl_weight} must not be negative; 1 is the variational bound")
        if deviation <= 0:
            raise ConfigError(f"task.deviation={deviation} must be positive; use for example task.deviation=1.0")
        self.facts = facts
        self.kl_weight, self.deviation = kl_weight, deviation
        self.normaliser = math.log(deviation * math.sqrt(2 * math.pi))
        self.binarize = binarize and self.likeness.logits
        self.monitor = Monitor("elbo", higher_is_better=True)
        self.constant = torch.zeros(facts.input_shape)  # the raw output that explains the training part best

    def out_shape(self) -> tuple[int, ...]:
        """The input's shape."""
        return self.facts.input_shape

    def metric_names(self) -> tuple[str, ...]:
        """The loss, the bound, and its two parts: -log p(x|z) and the divergence."""
        return ("loss", "elbo", "reconstruction", "kl")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        return self.likeness.output_layer()

    def example(self) -> Batch:
        """Two examples of zeros."""
        return made_up_inputs(self.facts), torch.zeros(2, dtype=torch.int64)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """The mean of each value over the training part, as the raw output that stands for it.

        Raises:
            DataError: the loss is of logits and a value is not from 0 to 1.
        """
        self.likeness.check_range(batches)
        count, total = 0, torch.zeros(())
        for x, _ in batches():
            count, total = count + len(x), total.to(x.device) + x.double().sum(0)
        # One white and one black example more, so that a pixel that is never white is not impossible.
        self.constant = (((total + 1) / (count + 2)).logit() if self.likeness.logits else total / count).float()

    def observed(self, inputs: Tensor) -> Tensor:
        """What is explained: the inputs, or pixels drawn from them by torch's global generator."""
        return torch.bernoulli(inputs) if self.binarize else inputs

    def nats(self, outputs: Tensor, x: Tensor) -> Tensor:
        """-log p(x|z) for raw outputs: (B, ...), (B, *input_shape) -> (B,)."""
        outputs = outputs.float().reshape(x.shape)
        if self.likeness.logits:
            return F.binary_cross_entropy_with_logits(outputs, x, reduction="none").flatten(1).sum(1)
        scaled = ((x - outputs) / self.deviation).square() / 2
        return (scaled + self.normaliser).flatten(1).sum(1)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Logs]:
        """-log p(x|z) + kl_weight KL for one sample of each code, mean over the batch."""
        reconstruction, kl = (part.mean() for part in self._parts(model, self.observed(batch[0]), samples=1))
        loss = reconstruction + self.kl_weight * kl
        return loss, {"loss": loss.detach(), "reconstruction": reconstruction.detach(), "kl": kl.detach()}

    def _parts(self, model: Any, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """-log p(x|z), mean over the samples of z, and the divergence: (B, *input_shape) -> (B,), (B,)."""
        mean, log_variance = (part.float() for part in model.posterior(x))  # (B, K)
        deviation = (log_variance / 2).exp()
        nats = [self.nats(model.decode(mean + deviation * torch.randn_like(mean)), x) for _ in range(samples)]
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return torch.stack(nats).mean(0), kl

    def measure(self, model: Any, batches: Iterable[Batch], split: str) -> Measured:
        """The bound and its parts over a whole part; the baseline's: every value independent of the others."""
        found = Averages()
        for inputs, _ in batches:
            x = self.observed(inputs)
            reconstruction, kl = self._parts(model, x, TEST_SAMPLES if split == "test" else 1)
            baseline = self.nats(self._constant(x), x)
            found.add(len(x), reconstruction=reconstruction.sum(), kl=kl.sum(), baseline=baseline.sum())
        reconstruction, kl = found.mean("reconstruction"), found.mean("kl")
        loss = reconstruction + self.kl_weight * kl
        metrics = {"loss": loss, "elbo": -(reconstruction + kl), "reconstruction": reconstruction, "kl": kl}
        return Measured(metrics, {"elbo": -found.mean("baseline")})

    def _constant(self, x: Tensor) -> Tensor:
        if self.constant.device != x.device:
            self.constant = self.constant.to(x.device)
        return self.constant.expand_as(x)

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: each feature's reconstruction."""
        return self.likeness.rows(outputs)

    def images(self, model: Any, inputs: Tensor) -> Tensor:
        """Reconstructions from the mean of the code, in the inputs' range: (B, C, H, W) -> (B, C, H, W)."""
        return self.likeness.values(model(inputs))

    def sample(self, model: Any, count: int) -> Tensor:
        """New examples (count, *input_shape) in the inputs' range: codes from the prior, decoded."""
        device = next(model.parameters()).device
        return self.likeness.values(model.decode(torch.randn(count, model.code_features, device=device)))

    def state(self) -> dict[str, Any]:
        """The raw output that stands for the training part's mean."""
        return {"constant": self.constant}

    def restore(self, state: dict[str, Any]) -> None:
        """Take that of a checkpoint."""
        self.constant = state["constant"]

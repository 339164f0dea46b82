"""Denoising: the clean input from a corrupted one.

Source: P. Vincent et al., "Stacked Denoising Autoencoders", JMLR 11, 2010: additive Gaussian noise, masking noise and
salt-and-pepper noise, drawn anew each time an example is seen, the loss against the clean input.
Differs from it in: 1. the network is trained whole; 2. the paper's emphasis of the corrupted values in the loss is left
out; 3. a masked value becomes 0, which is the mean where the data are standardised and black where pixels are 0 to 1.

Shape legend: B examples of a batch.

The metric is the squared error per example against the clean input, beside that of the corrupted input itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError, did_you_mean
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Network, Source, made_up_inputs
from dlrun.tasks.likeness import Averages, Likeness, squared_errors

Range = tuple[float, float]


def gaussian(inputs: Tensor, amount: float, limits: Range) -> Tensor:
    """Normal noise of deviation ``amount`` added to every value."""
    return inputs + amount * torch.randn_like(inputs)


def masking(inputs: Tensor, amount: float, limits: Range) -> Tensor:
    """A share ``amount`` of the values set to 0."""
    return inputs * (torch.rand_like(inputs) >= amount)


def salt_pepper(inputs: Tensor, amount: float, limits: Range) -> Tensor:
    """A share ``amount`` of the values set to the lowest or the highest value, each with the same probability."""
    draw = torch.rand_like(inputs)
    low, high = limits
    return torch.where(draw >= amount, inputs, low + (high - low) * (draw < amount / 2).to(inputs.dtype))


CORRUPTIONS: dict[str, Callable[[Tensor, float, Range], Tensor]] = {
    "gaussian": gaussian,
    "masking": masking,
    "salt_pepper": salt_pepper,
}


class Denoising:
    """Outputs (B, *input_shape) for corrupted inputs, against the clean ones.

    Args:
        loss: between outputs and clean inputs.
        facts: of the data.
        corruption: ``gaussian``, ``masking`` or ``salt_pepper``.
        amount: deviation of the noise, or share of the values that are replaced.

    Raises:
        ConfigError: an unknown corruption, or an amount that is none.
    """

    name: ClassVar[str] = "denoising"
    pixels: ClassVar[str] = "unit"
    requires: ClassVar[tuple[str, ...]] = ()
    usual_loss: ClassVar[str] = "MeanSquaredError"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "images"

    def __init__(self, loss: Loss, facts: Facts, corruption: str = "masking", amount: float = 0.25) -> None:
        if corruption not in CORRUPTIONS:
            names = ", ".join(CORRUPTIONS)
            raise ConfigError(f"task.corruption={corruption} is none of {names}{did_you_mean(corruption, CORRUPTIONS)}")
        if amount <= 0 or (corruption != "gaussian" and amount > 1):
            raise ConfigError(
                f"task.amount={amount} must be positive, and at most 1 where it is a share of the values; use for "
                "example task.amount=0.25"
            )
        self.likeness = Likeness(loss, self.name, facts)
        self.loss_function = loss
        self.facts = facts
        self.corruption, self.amount = CORRUPTIONS[corruption], amount
        self.monitor = Monitor("squared_error", higher_is_better=False)
        self.limits = (0.0, 1.0)

    def out_shape(self) -> tuple[int, ...]:
        """The input's shape."""
        return self.facts.input_shape

    def metric_names(self) -> tuple[str, ...]:
        """The loss, and the squared error per example."""
        return ("loss", "squared_error")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        return self.likeness.output_layer()

    def example(self) -> Batch:
        """Two examples of zeros."""
        return made_up_inputs(self.facts), torch.zeros(2, dtype=torch.int64)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """The lowest and the highest value of the training part: pepper and salt.

        Raises:
            DataError: the loss is of logits and a value is not from 0 to 1.
        """
        self.likeness.check_range(batches)
        ends = torch.stack([torch.stack(x.aminmax()) for x, _ in batches()])  # (batches, 2)
        self.limits = (ends[:, 0].min().item(), ends[:, 1].max().item())

    def corrupt(self, inputs: Tensor) -> Tensor:
        """A corrupted copy, from torch's global generator: (B, ...) -> (B, ...)."""
        return self.corruption(inputs, self.amount, self.limits)

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Corrupt, forward pass, loss against the clean inputs."""
        inputs, _ = batch
        loss = self.loss_function(model(self.corrupt(inputs)).reshape(inputs.shape), inputs)
        return loss, {"loss": loss.detach()}

    def measure(self, model: Network, batches: Iterable[Batch], split: str) -> Measured:
        """Loss and squared error over a whole part; the corrupted inputs' own squared error."""
        found = Averages()
        for inputs, _ in batches:
            corrupted = self.corrupt(inputs)
            outputs = model(corrupted).float().reshape(inputs.shape)
            found.add(
                len(inputs),
                loss=self.loss_function(outputs, inputs) * len(inputs),
                error=squared_errors(self.likeness.values(outputs), inputs).sum(),
                baseline=squared_errors(corrupted, inputs).sum(),
            )
        metrics = {"loss": found.mean("loss"), "squared_error": found.mean("error")}
        return Measured(metrics, {"squared_error": found.mean("baseline")})

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: each feature, cleaned."""
        return self.likeness.rows(outputs)

    def images(self, model: Network, inputs: Tensor) -> Tensor:
        """The user's images, cleaned, in the inputs' range: (B, C, H, W) -> (B, C, H, W)."""
        return self.likeness.values(model(inputs))

    def state(self) -> dict[str, Any]:
        """The lowest and the highest value of the training part."""
        return {"limits": list(self.limits)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take those of a checkpoint."""
        low, high = state["limits"]
        self.limits = (low, high)

"""Reconstruction: the input again, through a narrow code.

Shape legend: B examples of a batch, N of a whole part, K units of the code.

The metric is the squared error per example, summed over its values, in the range the network sees (pixels 0 to 1);
beside it stands principal component analysis with as many components as the code has units.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun.data.facts import Facts
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Network, Source, made_up_inputs
from dlrun.tasks.likeness import Averages, Likeness, squared_errors
from dlrun.tasks.principal_components import PrincipalComponents


class Reconstruction:
    """Outputs (B, *input_shape) against the inputs themselves; the data's own targets are not used.

    The baseline has at most 256 components, and is the mean example above 4,096 values per example.
    """

    name: ClassVar[str] = "reconstruction"
    pixels: ClassVar[str] = "unit"
    requires: ClassVar[tuple[str, ...]] = ("encode", "code_features")
    usual_loss: ClassVar[str] = "MeanSquaredError"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "images"

    def __init__(self, loss: Loss, facts: Facts) -> None:
        self.likeness = Likeness(loss, self.name, facts)
        self.loss_function = loss
        self.facts = facts
        self.monitor = Monitor("squared_error", higher_is_better=False)
        self.components = PrincipalComponents()

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
        """The principal directions of the training part.

        Raises:
            DataError: the loss is of logits and a value is not from 0 to 1.
        """
        self.likeness.check_range(batches)
        self.components.fit(len(targets), batches)

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Forward pass and loss of a batch."""
        inputs, _ = batch
        loss = self.loss_function(model(inputs).reshape(inputs.shape), inputs)
        return loss, {"loss": loss.detach()}

    def measure(self, model: Any, batches: Iterable[Batch], split: str) -> Measured:
        """Loss and squared error over a whole part; the baseline's squared error."""
        found = Averages()
        for inputs, _ in batches:
            outputs = model(inputs).float().reshape(inputs.shape)
            found.add(
                len(inputs),
                loss=self.loss_function(outputs, inputs) * len(inputs),
                error=squared_errors(self.likeness.values(outputs), inputs).sum(),
                baseline=self.components.squared_errors(inputs, model.code_features).sum(),
            )
        metrics = {"loss": found.mean("loss"), "squared_error": found.mean("error")}
        return Measured(metrics, {"squared_error": found.mean("baseline")})

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: each feature's reconstruction."""
        return self.likeness.rows(outputs)

    def images(self, model: Network, inputs: Tensor) -> Tensor:
        """Reconstructions in the inputs' range: (B, C, H, W) -> (B, C, H, W)."""
        return self.likeness.values(model(inputs))

    def state(self) -> dict[str, Any]:
        """Mean and principal directions."""
        return self.components.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Take those of a checkpoint."""
        self.components.restore(state)

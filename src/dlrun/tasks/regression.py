"""Regression: D numbers per example, an identity output layer.

Shape legend: B examples of a batch, N of a whole part, D targets.

The network learns targets standardised with the training part's mean and deviation, so that a rate that works for one
unit works for another; metrics and predictions are in the data's own units, ``loss`` is in standardised ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun import metrics
from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Network, Source, check_loss, collect, made_up_inputs


class Regression:
    """Values (B, D) against targets (B, D)."""

    name: ClassVar[str] = "regression"
    pixels: ClassVar[str] = "standard"
    requires: ClassVar[tuple[str, ...]] = ()
    usual_loss: ClassVar[str] = "MeanSquaredError"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "rows"

    def __init__(self, loss: Loss, facts: Facts, standardize: bool = True) -> None:
        if facts.num_targets < 1:
            raise ConfigError(
                f"task=regression needs numbers to predict; '{facts.name}' has {facts.num_classes} classes: "
                "use task=classification, or data.task=regression if the classes of a table are numbers"
            )
        if facts.target_shape:
            raise ConfigError(
                f"task=regression takes a row of numbers, but a target of '{facts.name}' has shape "
                f"{facts.target_shape}: use task={facts.task}"
            )
        check_loss(loss, self.name, facts)
        self.loss_function = loss
        self.facts = facts
        self.standardize = standardize
        self.targets = facts.targets
        self.monitor = Monitor("mse", higher_is_better=False)
        self.mean = torch.zeros(facts.num_targets, dtype=torch.float64)
        self.deviation = torch.ones(facts.num_targets, dtype=torch.float64)
        self._shift = torch.zeros(
            facts.num_targets, dtype=torch.float64
        )  # the mean, or nothing when targets are left as they are

    def out_shape(self) -> tuple[int, ...]:
        """One unit per target."""
        return (len(self.targets),)

    def metric_names(self) -> tuple[str, ...]:
        """What ``metrics`` gives, after the loss."""
        return ("loss", "mse", "mae", "r2")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        units = len(self.targets)
        return f"{units} unit{'s' * (units > 1)}, identity", f"a number for each of: {', '.join(self.targets)}"

    def example(self) -> Batch:
        """Two examples whose numbers are all zero."""
        return made_up_inputs(self.facts), torch.zeros(2, len(self.targets))

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Mean and deviation (D,) of the training part, in float64: a mean may be far larger than the deviation."""
        self.mean = targets.double().mean(dim=0)
        if self.standardize:
            deviation = targets.double().std(dim=0, correction=0)
            self.deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        self._shift = self.mean if self.standardize else torch.zeros_like(self.mean)

    def _scaled(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """In standardised units: in 32 bits, or in 64 where the network is (torch 2.11's losses do not mix the two)."""
        self._to(targets.device)
        standardised: Tensor = (targets.double() - self._shift) / self.deviation
        return standardised.to(torch.promote_types(outputs.dtype, torch.float32))

    def _to(self, device: torch.device) -> None:
        if self.mean.device != device:
            self.mean, self.deviation, self._shift = (t.to(device) for t in (self.mean, self.deviation, self._shift))

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Forward pass and loss of a batch, in standardised units."""
        inputs, targets = batch
        outputs = model(inputs)
        loss = self.loss_function(outputs, self._scaled(targets, outputs))
        return loss, {"loss": loss.detach()}

    def outputs_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of outputs (N, D), in standardised units."""
        return self.loss_function(outputs, self._scaled(targets, outputs))

    def measure(self, model: Network, batches: Iterable[Batch], split: str) -> Measured:
        """Loss and metrics over a whole part, beside the baseline's."""
        outputs, targets = collect(model, batches)
        found = {"loss": self.outputs_loss(outputs, targets)} | self.metrics(outputs, targets)
        return Measured(found, self.baseline(targets), outputs, targets)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """``values`` (B, D) float64 in the data's own units."""
        self._to(outputs.device)
        return {"values": outputs.double() * self.deviation + self._shift}

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: each target's number."""
        return [[dict(zip(self.targets, row, strict=True))] for row in self.predict(outputs)["values"].tolist()]

    def metrics(self, outputs: Tensor, targets: Tensor) -> Logs:
        """Mean squared error, mean absolute error and R2, in the data's own units."""
        return self._metrics(self.predict(outputs)["values"], targets)

    def _metrics(self, values: Tensor, targets: Tensor) -> Logs:
        return {
            "mse": metrics.mse(values, targets),
            "mae": metrics.mae(values, targets),
            "r2": metrics.r2(values, targets),
        }

    def baseline(self, targets: Tensor) -> Logs:
        """The same metrics for always answering the training part's mean."""
        self._to(targets.device)
        return self._metrics(self.mean.expand_as(targets), targets)

    def state(self) -> dict[str, Any]:
        """Mean and deviation of the training part."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the mean and deviation of a checkpoint."""
        self.mean = torch.tensor(state["mean"], dtype=torch.float64)
        self.deviation = torch.tensor(state["deviation"], dtype=torch.float64)
        self._shift = self.mean if self.standardize else torch.zeros_like(self.mean)

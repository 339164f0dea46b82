"""Classification: one of C classes.

Shape legend: B examples of a batch, N of a whole part, C classes, U output units (C, or 1 for two classes).

The output layer follows the book. Two classes: one unit with a sigmoid, or two units and the higher one wins.
More classes: one unit each with a softmax. The sigmoid and the softmax are inside the loss, where they are exact for
large scores; ``predict`` applies them for the reader.
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


class Classification:
    """Scores (B, U) against class indices (B,)."""

    name: ClassVar[str] = "classification"
    pixels: ClassVar[str] = "standard"
    requires: ClassVar[tuple[str, ...]] = ()
    usual_loss: ClassVar[str] = "CrossEntropy"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "rows"

    def __init__(self, loss: Loss, facts: Facts, outputs: int | str = "auto") -> None:
        check_loss(loss, self.name, facts)
        if facts.num_classes < 2:
            has = "numbers to predict" if facts.targets else "one class" if facts.classes else "no classes"
            raise ConfigError(f"task=classification needs data with two classes or more; '{facts.name}' has {has}")
        if outputs not in ("auto", 1, 2) or (outputs in (1, 2) and facts.num_classes > 2):
            raise ConfigError(
                f"task.outputs={outputs}: 1 or 2 for two classes, else auto, and '{facts.name}' has {facts.num_classes}"
            )
        wanted = getattr(loss, "binary_units", 2)
        if outputs == 1 and wanted == 2:
            raise ConfigError("task.outputs=1 needs a loss of one score: loss=bce, hinge, squared_hinge or focal")
        self.loss_function = loss
        self.facts = facts
        self.classes = facts.classes
        binary_units = wanted if outputs == "auto" else int(outputs)
        self.units = binary_units if facts.num_classes == 2 else facts.num_classes
        self.monitor = Monitor("accuracy", higher_is_better=True)
        self.counts = torch.zeros(facts.num_classes, dtype=torch.int64)

    def out_shape(self) -> tuple[int, ...]:
        """One unit per class, or one for two classes."""
        return (self.units,)

    def metric_names(self) -> tuple[str, ...]:
        """The area under the ROC curve is for two classes."""
        return ("loss", "accuracy", "f1", "auroc") if len(self.classes) == 2 else ("loss", "accuracy", "f1")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        if self.units == 1:
            return "1 unit, sigmoid", f"two classes and a loss of one score ({type(self.loss_function).__name__})"
        return f"{self.units} units, softmax, the highest wins", f"{len(self.classes)} classes"

    def example(self) -> Batch:
        """Two examples of the first class."""
        return made_up_inputs(self.facts), torch.zeros(2, dtype=torch.int64)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Count the classes of the training part: for the majority baseline and balanced class weights."""
        self._learn(torch.bincount(targets.cpu(), minlength=len(self.classes)))

    def _learn(self, counts: Tensor) -> None:
        self.counts = counts
        weigh = getattr(self.loss_function, "fit", None)
        if weigh is not None:
            weigh(counts)

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Forward pass and loss of a batch."""
        inputs, targets = batch
        loss = self.loss_function(model(inputs), targets)
        return loss, {"loss": loss.detach()}

    def outputs_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of scores (N, U)."""
        return self.loss_function(outputs, targets)

    def measure(self, model: Network, batches: Iterable[Batch], split: str) -> Measured:
        """Loss and metrics over a whole part, beside the baseline's."""
        outputs, targets = collect(model, batches)
        found = {"loss": self.outputs_loss(outputs, targets)} | self.metrics(outputs, targets)
        return Measured(found, self.baseline(targets), outputs, targets)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """``labels`` (B,) and ``probabilities`` (B, C)."""
        if self.units == 1:
            second = outputs.float().sigmoid()
            probabilities = torch.cat([1 - second, second], dim=1)
        else:
            probabilities = outputs.float().softmax(dim=1)
        return {"labels": probabilities.argmax(dim=1), "probabilities": probabilities}

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: the class by name, and the probability of each."""
        found = self.predict(outputs)
        labels, probabilities = found["labels"].tolist(), found["probabilities"].tolist()
        return [
            [
                {"prediction": self.classes[label]}
                | {f"p({name})": round(p, 6) for name, p in zip(self.classes, shares, strict=True)}
            ]
            for label, shares in zip(labels, probabilities, strict=True)
        ]

    def metrics(self, outputs: Tensor, targets: Tensor) -> Logs:
        """Accuracy and macro F1; for two classes the area under the ROC curve too."""
        predicted = self.predict(outputs)
        found = {
            "accuracy": metrics.accuracy(predicted["labels"], targets),
            "f1": metrics.macro_f1(predicted["labels"], targets, len(self.classes)),
        }
        if len(self.classes) == 2:
            found["auroc"] = metrics.auroc(predicted["probabilities"][:, 1], targets)
        return found

    def baseline(self, targets: Tensor) -> Logs:
        """Accuracy of always answering the training part's most frequent class."""
        majority = self.counts.argmax().to(targets.device)
        return {"accuracy": metrics.accuracy(majority.expand_as(targets), targets)}

    def state(self) -> dict[str, Any]:
        """Class counts of the training part."""
        return {"counts": self.counts.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the class counts of a checkpoint."""
        self._learn(torch.tensor(state["counts"], dtype=torch.int64))

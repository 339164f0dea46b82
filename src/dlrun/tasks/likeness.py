"""What the tasks whose outputs look like their inputs share: reconstruction, denoising and the variational bound.

Raw outputs are the values themselves, or the logits of values from 0 to 1 when the loss is binary cross-entropy.

Shapes: B batch, F values of one example.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError, DataError
from dlrun.losses import BinaryCrossEntropy, Loss
from dlrun.tasks import Logs, Source, check_loss


class Likeness:
    """How to read outputs (B, *input_shape) or (B, F) for data of these facts.

    Raises:
        ConfigError: the loss cannot serve the task, or the inputs are tokens.
    """

    def __init__(self, loss: Loss, task: str, facts: Facts) -> None:
        check_loss(loss, task, facts)
        if facts.vocabulary:
            raise ConfigError(
                f"task={task} draws numbers, and the inputs of '{facts.name}' are tokens: "
                "use data of images or numbers, such as data=digits"
            )
        self.logits = isinstance(loss, BinaryCrossEntropy)
        self.facts = facts

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        units = "x".join(map(str, self.facts.input_shape))
        if self.logits:
            return f"{units} values, sigmoid", "values from 0 to 1 and a loss of logits (BinaryCrossEntropy)"
        return f"{units} values, identity", "the values of the input itself"

    def values(self, outputs: Tensor) -> Tensor:
        """Raw outputs as values in the inputs' range, float32 (B, *input_shape)."""
        outputs = outputs.float().reshape(-1, *self.facts.input_shape)
        return outputs.sigmoid() if self.logits else outputs

    def check_range(self, batches: Source) -> None:
        """Refuse training inputs beyond 0 to 1 when the outputs are logits; raises DataError."""
        if self.logits and any(bool(((x < 0) | (x > 1)).any()) for x, _ in batches()):
            raise DataError(
                f"loss=bce needs values from 0 to 1, and '{self.facts.name}' has others: "
                "use data.pixels=unit for images, loss=mse for everything else"
            )

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: each feature's value, in the range the network sees."""
        values = self.values(outputs).flatten(1)
        names = self.facts.features if len(self.facts.features) == values.shape[1] else range(values.shape[1])
        return [[{str(name): value for name, value in zip(names, row, strict=True)}] for row in values.tolist()]


class Averages:
    """Means over the examples of a part, added up batch by batch in double precision."""

    def __init__(self) -> None:
        self._sums: Logs = {}
        self._count = 0

    def add(self, count: int, **sums: Tensor) -> None:
        """Count ``count`` more examples with these sums (0-d)."""
        self._count += count
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value.double() if name in self._sums else value.double()

    def mean(self, name: str) -> Tensor:
        """The mean of one quantity, 0-d; NaN without examples."""
        return self._sums[name] / self._count if self._count else torch.tensor(float("nan"))


def squared_errors(values: Tensor, inputs: Tensor) -> Tensor:
    """Squared error of each example, summed over its values: (B, ...), (B, ...) -> (B,)."""
    return (values - inputs).square().flatten(1).sum(1)

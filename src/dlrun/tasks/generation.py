"""Generation: new examples like those of the data, made of noise.

Images, tables and points. The loss is the algorithm's business, for there are two; what is left to a task is to say how
good the generated examples are: by their Frechet distance from the data, or, for points of more than two classes, by
the clouds they cover. The baseline draws every value by itself, from a normal distribution with the training part's
mean and deviation: right in each value, blind to how they belong together.

Shapes: B examples of a batch, N generated examples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Source, check_loss, made_up_inputs
from dlrun.tasks.frechet import Features, FrechetYardstick, plain_values
from dlrun.tasks.in_pieces import pieces
from dlrun.tasks.modes import ModesYardstick

KINDS = ("image", "table", "points")
CHUNK = 500


class Generator(Protocol):
    """What generation asks of a model: noise, and a net that makes examples of it."""

    generator: nn.Module

    def noise(self, count: int) -> Tensor:
        """What ``count`` examples are made of."""
        ...


class Yardstick(Protocol):
    """Judges generated examples."""

    names: tuple[str, ...]
    monitor: Monitor

    def learn(self, batches: Iterable[Batch]) -> None:
        """Learn what is needed from the training part."""
        ...

    def judge(self, batches: Iterable[Batch], *sampled: Tensor) -> list[Logs]:
        """The metrics of each set of examples, beside a part of the data."""
        ...

    def state(self) -> dict[str, Any]:
        """What was learnt."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        ...


class Generation:
    """Examples out of noise.

    Args:
        loss: one of ``dlrun.adversarial_losses``.
        facts: of the data.
        classifier: whose feature space the Frechet distance of images is taken in: ``auto`` trains a small one on the
            same data first, where they have classes; the directory of a run; None for the space of the pixels.
        classifier_steps: steps that ``auto`` trains it for.
        samples: number of examples to generate for an evaluation.

    Raises:
        ConfigError: the data are of no kind that is generated, the loss has not two sides, or a number is out of its
            range.
    """

    name: ClassVar[str] = "generation"
    pixels: ClassVar[str] = "symmetric"
    requires: ClassVar[tuple[str, ...]] = ("generator", "noise")
    usual_loss: ClassVar[str] = "dlrun.adversarial_losses.NonSaturating"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "images"

    def __init__(
        self,
        loss: Loss,
        facts: Facts,
        classifier: str | None = None,
        classifier_steps: int = 1000,
        samples: int = 2000,
    ) -> None:
        check_loss(loss, self.name, facts)
        if facts.kind not in KINDS:
            raise ConfigError(
                f"task=generation is for images, tables and points, but '{facts.name}' is {facts.kind}; "
                "use for example data=fashion_mnist or data=ring"
            )
        for key, value, least in (("classifier_steps", classifier_steps, 1), ("samples", samples, 2)):
            if value < least:
                raise ConfigError(f"task.{key}={value} must be at least {least}")
        if classifier not in (None, "auto") and facts.kind != "image":
            raise ConfigError(f"task.classifier={classifier} is for images, but '{facts.name}' is {facts.kind}")
        self.facts, self.samples = facts, samples
        self.classifier = classifier if facts.kind == "image" else None
        if self.classifier == "auto" and facts.num_classes < 2:
            self.classifier = None
        self.classifier_steps = classifier_steps
        self.yardstick: Yardstick = self._yardstick()
        self.monitor = self.yardstick.monitor
        self.mean = torch.zeros(facts.input_shape)
        self.deviation = torch.ones(facts.input_shape)

    def _yardstick(self) -> FrechetYardstick | ModesYardstick:
        if self.facts.kind == "points" and self.facts.num_classes > 2:
            return ModesYardstick(self.facts.num_classes, self.facts.input_shape[0])
        return FrechetYardstick(plain_values if self.classifier is None else None)

    def use_features(self, features: Features) -> None:
        """Take the Frechet distance in this feature space: (N, ...) in the network's range -> (N, D)."""
        self.yardstick = FrechetYardstick(features)

    def out_shape(self) -> tuple[int, ...]:
        """The discriminator's score."""
        return (1,)

    def metric_names(self) -> tuple[str, ...]:
        """What the generated examples are judged by."""
        return self.yardstick.names

    def output_layer(self) -> tuple[str, str]:
        """The discriminator's output in words, and what the generated examples are judged by."""
        spaces = {None: "of the values themselves", "auto": "of a classifier trained first"}
        space = spaces.get(self.classifier, f"of {self.classifier}")
        judged = f"by the Frechet distance in the feature space {space}"
        if isinstance(self.yardstick, ModesYardstick):
            judged = f"by the {self.facts.num_classes} clouds they cover"
        return "1 unit: real or generated", f"generated examples are judged {judged}"

    def example(self) -> Batch:
        """Two examples of zeros; their targets are not looked at."""
        return made_up_inputs(self.facts), torch.zeros(2, dtype=torch.int64)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Mean and deviation of each value over the training part, for the baseline; and the yardstick's own."""
        count = 0
        total, squares = (torch.zeros(self.facts.input_shape, dtype=torch.float64) for _ in range(2))
        for inputs, _ in batches():
            values = inputs.double()
            count += len(values)
            total += values.sum(dim=0).cpu()
            squares += values.square().sum(dim=0).cpu()
        mean = total / max(1, count)
        self.mean = mean.float()
        self.deviation = (squares / max(1, count) - mean.square()).clamp(min=0).sqrt().float()
        self.yardstick.learn(batches())

    def measure(self, model: Generator, batches: Iterable[Batch], split: str) -> Measured:
        """How good generated examples are, beside those of the baseline."""
        sampled = self.sample(model, self.samples)
        found, naive = self.yardstick.judge(batches, sampled, self.naive_sample(self.samples, sampled.device))
        return Measured(found, naive)

    def sample(self, model: Generator, count: int) -> Tensor:
        """``count`` generated examples (N, *in_shape) in the network's range."""
        sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
        return torch.cat([model.generator(model.noise(size)).float() for size in pieces(sizes)])

    def naive_sample(self, count: int, device: torch.device) -> Tensor:
        """``count`` examples (N, *in_shape) of values drawn one by one; pixels stay between black and white."""
        mean, deviation = self.mean.to(device), self.deviation.to(device)
        drawn = mean + deviation * torch.randn(count, *mean.shape, device=device)
        return drawn.clamp(-1, 1) if self.facts.kind == "image" else drawn

    def state(self) -> dict[str, Any]:
        """Mean and deviation of each value, and what the yardstick learnt."""
        return {"mean": self.mean, "deviation": self.deviation, "yardstick": self.yardstick.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what ``fit`` learnt from a checkpoint."""
        self.mean, self.deviation = state["mean"], state["deviation"]
        self.yardstick.restore(state["yardstick"])

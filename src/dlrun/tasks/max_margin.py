"""Maximum margin: the support vector machine's objective, 1/2 |w|^2 + C sum_i hinge_i.

Trained as its mean per example, |w|^2 / (2 C n) + mean_i hinge_i, which has the same minimum for n training examples
and does not grow with the batch. The bias is not regularised. hinge_i = sum_k max(0, 1 - margin_ik)^p, p = 1 (hinge) or
2 (squared). Margins: two classes have one unit, margin = y f(x) with y = +-1; more classes

- one against the rest: margin_k = y_k f_k(x), a machine for each class (V. Vapnik, "Statistical Learning Theory",
  1998);
- K. Crammer and Y. Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", JMLR 2,
  2001: one margin, f_y(x) - max_(r != y) f_r(x). Their beta is 1 / C. Differs in: units may have a bias.

Shape legend: B examples of a batch, N of a whole part, C classes, U output units (C, or 1 for two classes), K margins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError, did_you_mean
from dlrun.losses import Hinge, one_hot
from dlrun.tasks import Batch, Logs, Measured, Monitor, Source, collect
from dlrun.tasks.classification import Classification
from dlrun.tasks.in_pieces import pieces

POWERS = {"hinge": 1, "squared": 2}
AT_THE_MARGIN = 1e-3  # a margin this close to 1 touches it; the tolerance that LIBSVM stops at


class Machine(Protocol):
    """A model with a margin."""

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (B, U)."""
        ...

    def squared_norm(self) -> Tensor:
        """|w|^2, 0-d."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """w and b."""
        ...


def one_vs_rest(scores: Tensor, targets: Tensor) -> Tensor:
    """Scores (B, U) and class indices (B,) -> margins (B, U): y_k f_k with y = +-1."""
    return (2 * one_hot(targets, scores) - 1) * scores


def crammer_singer(scores: Tensor, targets: Tensor) -> Tensor:
    """Scores (B, C) and class indices (B,) -> margins (B, 1): the right class's score above the best of the others."""
    right = one_hot(targets, scores).bool()
    others = scores.masked_fill(right, -torch.inf).amax(1, keepdim=True)
    return scores.gather(1, targets[:, None]) - others


MARGINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one_vs_rest": one_vs_rest,
    "crammer_singer": crammer_singer,
}


class MaxMargin:
    """Scores (B, U) against class indices (B,), for models with a ``squared_norm``.

    Args:
        loss: none; the hinge is this task's own.
        facts: of the data, which have classes.
        C: what a unit of hinge costs beside 1/2 |w|^2, summed over the training examples.
        hinge: ``hinge`` or ``squared``.
        multiclass: ``one_vs_rest`` or ``crammer_singer``; for two classes they are the same machine.

    Raises:
        ConfigError: data without classes, C not positive, or an unknown word.
    """

    name: ClassVar[str] = "max_margin"
    pixels: ClassVar[str] = "unit"
    requires: ClassVar[tuple[str, ...]] = ("squared_norm",)
    usual_loss: ClassVar[str] = ""
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "rows"

    def __init__(
        self,
        loss: None,
        facts: Facts,
        C: float = 1.0,  # noqa: N803 - the book's name
        hinge: str = "squared",
        multiclass: str = "one_vs_rest",
    ) -> None:
        if facts.num_classes < 2:
            has = "numbers to predict" if facts.targets else "one class" if facts.classes else "no classes"
            raise ConfigError(f"task=max_margin needs data with two classes or more; '{facts.name}' has {has}")
        if not C > 0:
            raise ConfigError(f"task.C={C} must be positive; use for example task.C=1")
        for key, value, known in (("hinge", hinge, POWERS), ("multiclass", multiclass, MARGINS)):
            if value not in known:
                raise ConfigError(f"task.{key}={value}: there is no such kind{did_you_mean(value, known)}")
        self.power = POWERS[hinge]
        self.C = C
        self.margins = one_vs_rest if facts.num_classes == 2 else MARGINS[multiclass]
        self.words = "y f(x)" if facts.num_classes == 2 else multiclass.replace("_", " ")
        # The reading of scores, its metrics and baseline are a classifier's.
        self.classifier = Classification(Hinge(self.power), facts)
        self.monitor = Monitor("accuracy", higher_is_better=True)
        self.examples = 1
        self.training: Source | None = None

    def out_shape(self) -> tuple[int, ...]:
        """One unit per class, or one for two classes."""
        return self.classifier.out_shape()

    def metric_names(self) -> tuple[str, ...]:
        """As a classifier's; the test part reports the objective and the support vectors too."""
        return self.classifier.metric_names()

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        units = self.classifier.units
        reason = f"margins {self.words}, {'squared ' * (self.power == 2)}hinge, C {self.C:g}"
        return f"{units} unit{'s' * (units > 1)}, {'the sign' if units == 1 else 'the highest'} decides", reason

    def example(self) -> Batch:
        """Two examples of the first class."""
        return self.classifier.example()

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Count the classes of the training part, and keep the way to it: the objective is a sum over it."""
        self.classifier.fit(targets, batches)
        self.examples = len(targets)
        self.training = batches

    def loss(self, model: Machine, batch: Batch) -> tuple[Tensor, Logs]:
        """The objective of a batch, per example."""
        inputs, targets = batch
        loss = self._per_example(model, model(inputs), targets)
        return loss, {"loss": loss.detach()}

    def _hinges(self, scores: Tensor, targets: Tensor) -> Tensor:
        """hinge_i, (B,)."""
        return (1 - self.margins(scores, targets)).clamp_min(0).pow(self.power).sum(1)

    def _per_example(self, model: Machine, scores: Tensor, targets: Tensor) -> Tensor:
        return self._hinges(scores, targets).mean() + model.squared_norm() / (2 * self.C * self.examples)

    def measure(self, model: Machine, batches: Iterable[Batch], split: str) -> Measured:
        """Loss and metrics over a whole part; with the test part's, how near the machine is to its optimum.

        ``objective`` is 1/2 |w|^2 + C sum_i hinge_i over the training part; ``support_vectors`` counts its examples
        with a margin of at most 1; ``gradient_norm``, for the squared hinge alone, is |gradient| / |gradient at w = 0|
        of the objective, LIBLINEAR's measure: 0 at the optimum, without any dual. The hinge has kinks there instead.
        """
        outputs, targets = collect(model, batches)
        found = {"loss": self._per_example(model, outputs, targets)} | self.classifier.metrics(outputs, targets)
        if split == "test" and self.training is not None:
            found |= self._optimality(model, self.training)
        return Measured(found, self.classifier.baseline(targets), outputs, targets)

    def _optimality(self, model: Machine, training: Source) -> Logs:
        weights = [p for p in model.parameters() if p.requires_grad]
        with torch.enable_grad():
            norm = model.squared_norm() / 2
            here = list(torch.autograd.grad(norm, weights, materialize_grads=True))
            start = [torch.zeros_like(w) for w in weights]  # 1/2 |w|^2 is flat at w = 0
            sums = norm.new_zeros((2,), dtype=torch.float64)
            for inputs, targets in pieces(training()):
                scores = model(inputs).float()
                still = scores.detach()
                touching = (self.margins(still, targets) <= 1 + AT_THE_MARGIN).any(1)
                sums += torch.stack([self._hinges(still, targets).double().sum(), touching.double().sum()])
                for gradient, at in ((here, still), (start, torch.zeros_like(still))):
                    pull = torch.autograd.grad(scores, weights, self.C * self._slope(at, targets), retain_graph=True)
                    torch._foreach_add_(gradient, pull)
        found = {"objective": norm.detach().double() + self.C * sums[0], "support_vectors": sums[1]}
        if self.power == 2:
            size, first = (nn.utils.get_total_norm(gradient) for gradient in (here, start))
            found["gradient_norm"] = size / first
        return found

    def _slope(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Derivative of sum_i hinge_i at scores (B, U)."""
        scores.requires_grad_()
        return torch.autograd.grad(self._hinges(scores, targets).sum(), scores)[0]

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        """``labels`` (B,), and as ``probabilities`` (B, C) the scores squashed for pictures: a machine has none."""
        return self.classifier.predict(outputs)

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """One row per example: the class by name, and the score of each unit."""
        classes = self.classifier.classes
        names = classes[-self.classifier.units :]  # one unit is the second class's
        labels, scores = self.predict(outputs)["labels"].tolist(), outputs.float().tolist()
        return [
            [
                {"prediction": classes[label]}
                | {f"score({name})": round(value, 6) for name, value in zip(names, values, strict=True)}
            ]
            for label, values in zip(labels, scores, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Class counts of the training part."""
        return self.classifier.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Take the class counts of a checkpoint."""
        self.classifier.restore(state)
        self.examples = sum(state["counts"])

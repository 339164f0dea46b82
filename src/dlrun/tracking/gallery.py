"""Which pictures a run gets, and what they are drawn from.

Everything here only looks: the network is put back as it was and no random number is drawn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlrun.tasks import Evaluation
from dlrun.tracking import boundary, curves, pictures
from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.data.batches import Batches
    from dlrun.data.facts import Facts
    from dlrun.training.trainer import Trainer

Draw = Callable[[], "Image | str | None"]

SAMPLE = 25
MOST_CURVES = 10
MOST_CLASSES = 100
CLASSIFIES = ("classification", "max_margin")
SHOWN = frozenset(
    (
        "language_modelling", "forecasting", "reconstruction", "denoising", "variational", "generation", "density",
        "super_resolution",
    )
)  # fmt: skip


class Gallery:
    """The pictures that need the network itself.

    Takes 25 examples of the validation part (of the training part when nothing is held out) and, for points in
    the plane, the training part. What a task beyond classification and regression shows is drawn by the module of its
    name in ``dlrun.tracking.shown``.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.model: nn.Module = trainer.model
        self.task: Any = trainer.task
        self.facts: Facts = trainer.facts
        self.device = next(trainer.model.parameters()).device
        with observing(self.model, self.device):  # a streamed part may draw random numbers when it starts
            self.inputs, self.targets = _first(trainer.val or trainer.train, SAMPLE)
            if self.facts.kind == "points":
                points, point_targets = _first(trainer.train, trainer.train.size)
                self.points, self.point_targets = points.cpu(), point_targets.cpu()

    def drawings(self) -> dict[str, Draw]:
        """The way to draw each picture that these data have, by its tag."""
        if self.task.name in SHOWN:
            module = importlib.import_module(f"dlrun.tracking.shown.{self.task.name}")
            drawings: dict[str, Draw] = module.drawings(self)
            return drawings
        found: dict[str, Draw] = {}
        if self.facts.kind == "points":
            found["pictures/boundary"] = self.boundary
        if self.facts.kind == "image":
            found["pictures/predictions"] = self.predictions
            found["pictures/filters"] = self.filters
        return found

    def predict(self, inputs: Tensor) -> dict[str, Tensor]:
        """The task's predictions for ready inputs (B, ...), on the CPU."""
        with observing(self.model, self.device):
            found: dict[str, Tensor] = self.task.predict(self.model(inputs.to(self.device)))
            return {name: value.float().cpu() for name, value in found.items()}

    def boundary(self) -> Image:
        """The network's output over the plane."""
        if self.task.name in CLASSIFIES:
            return boundary.classification(
                self.points,
                self.point_targets,
                self.facts.classes,
                lambda points: self.predict(points)["probabilities"],
            )
        return boundary.regression(
            self.points,
            self.point_targets.reshape(len(self.points), -1)[:, 0],
            self.facts.targets[0],
            lambda points: self.predict(points)["values"][:, 0],
        )

    def predictions(self) -> Image:
        """The sample with predicted and true classes or values."""
        predicted = self.predict(self.inputs)
        if self.task.name in CLASSIFIES:
            names = self.facts.classes
            guesses = [names[int(k)] for k in predicted["labels"].tolist()]
            return pictures.predictions(self.inputs, guesses, [names[k] for k in self.targets.tolist()])
        true = self.targets.reshape(len(self.targets), -1)[:, 0].tolist()
        return pictures.predicted_values(self.inputs, predicted["values"][:, 0].tolist(), true)

    def filters(self) -> Image | None:
        """The first layer's weights, where they are pictures."""
        weight = pictures.first_filters(self.model, self.facts.input_shape)
        return None if weight is None else pictures.filters(weight)


def _first(batches: Batches, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` examples in the order of the data; all of them when there are fewer."""
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    for x, y in batches.in_order():
        inputs.append(x)
        targets.append(y)
        if sum(map(len, targets)) >= count:
            break
    same = [i for i, x in enumerate(inputs) if x.shape[1:] == inputs[0].shape[1:]]  # whole pictures differ in size
    return torch.cat([inputs[i] for i in same])[:count], torch.cat([targets[i] for i in same])[:count]


def evaluation_drawings(evaluation: Evaluation, task: Any, facts: Facts) -> dict[str, Draw]:
    """The way to draw each picture of an evaluation, by its tag."""
    outputs, targets = evaluation.outputs, evaluation.targets
    if outputs is None or targets is None:
        return {}
    if task.name in CLASSIFIES and facts.num_classes <= MOST_CLASSES:
        return {f"{evaluation.split}/confusion_matrix": lambda: _confusion(outputs, targets, task, facts)}
    if task.name == "regression":
        return {f"{evaluation.split}/predictions": lambda: _scatter(outputs, targets, task, facts)}
    return {}


def _confusion(outputs: Tensor, targets: Tensor, task: Any, facts: Facts) -> Image:
    classes = facts.num_classes
    cells = targets * classes + task.predict(outputs)["labels"]
    counts = torch.bincount(cells, minlength=classes * classes).reshape(classes, classes).cpu()
    return pictures.confusion_matrix(counts, facts.classes)


def _scatter(outputs: Tensor, targets: Tensor, task: Any, facts: Facts) -> Image:
    values = task.predict(outputs)["values"][:, 0].cpu()
    true = targets.reshape(len(values), -1)[:, 0].cpu()
    return curves.scatter(values, true, facts.targets[0])


def precision_recall(evaluation: Evaluation, task: Any, facts: Facts) -> Iterator[Any]:
    """``Summary`` messages of precision-recall curves: the second of two classes, or each of up to ten."""
    from torch.utils.tensorboard.summary import pr_curve

    if task.name not in CLASSIFIES or evaluation.outputs is None or evaluation.targets is None:
        return
    probabilities = torch.nan_to_num(task.predict(evaluation.outputs)["probabilities"]).float().cpu()
    targets = evaluation.targets.cpu()
    shown = [1] if facts.num_classes == 2 else range(min(MOST_CURVES, facts.num_classes))
    for k in shown:
        tag = f"{evaluation.split}/precision_recall/{facts.classes[k]}"
        yield pr_curve(tag, (targets == k).numpy(), probabilities[:, k].numpy())

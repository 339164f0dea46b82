"""The losses: how far off the outputs are, as one number with a gradient.

Every loss takes raw outputs and does its own squashing; classification targets are class indices (B,), and a loss that
needs one-hot or +-1 numbers makes them itself. With one output unit the index is 0 or 1. Other targets are numbers of
the outputs' shape: values to predict, or the pixels of a picture.
Every loss is a mean over the batch and, where it has one term per output unit, over the units. With class weights the
mean is weighted by each example's class, sum(w l) / sum(w), as torch's cross-entropy has it.

Shapes: B batch, N output units (or the values of a picture or a window, of any shape), C classes (2 where N is 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError

CLASSIFICATION = frozenset({"classification"})
PIXELS = frozenset({"reconstruction", "denoising"})
NUMBERS = CLASSIFICATION | PIXELS | {"regression", "forecasting", "super_resolution"}
LIKELIHOOD = frozenset({"variational"})  # where the loss stands for a distribution: Bernoulli or Gaussian
Weights = Sequence[float] | str | None


class Loss(Protocol):
    """What a task asks of a loss.

    Attributes:
        tasks: the tasks it makes sense for.
        binary_units: output units it wants for two classes.
    """

    tasks: frozenset[str]
    binary_units: int

    def fit(self, counts: Tensor) -> None:
        """Learn of the number of training examples of each class (C,)."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N...) and targets (B,) or (B, N...) -> a 0-d tensor."""


def one_hot(targets: Tensor, outputs: Tensor) -> Tensor:
    """Class indices (B,) -> zeros and ones of the outputs' shape and type; (B, 1) is the index itself."""
    if outputs.shape[1] == 1:
        return targets[:, None].to(outputs.dtype)
    classes = torch.arange(outputs.shape[1], device=targets.device)
    return (targets[:, None] == classes).to(outputs.dtype)  # F.one_hot reads the data, which no CUDA graph may


def numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets of a loss between numbers: numbers (B, N...) as they are, class indices (B,) as one-hot rows."""
    return targets if targets.is_floating_point() else one_hot(targets, outputs)


class ClassWeights(nn.Module):
    """Weights of the classes: none, given, or ``balanced``: examples / (classes * examples of the class).

    Until ``fit`` has seen the counts, ``balanced`` weighs all classes alike.

    Args:
        weights: None, ``"balanced"`` or one positive number per class.

    Raises:
        ConfigError: another word, or a number that is not positive.
    """

    values: Tensor | None

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        if isinstance(weights, str) and weights != "balanced":
            raise ConfigError(f"loss.class_weights={weights} must be null, balanced or a list like [1.0,2.5]")
        given = None if weights is None or isinstance(weights, str) else [float(w) for w in weights]
        if given is not None and not all(w > 0 for w in given):
            raise ConfigError(f"loss.class_weights={given} must be positive numbers, one per class")
        self.balanced = weights == "balanced"
        # Derived from the configuration and the training counts, so not a part of the checkpoint.
        self.register_buffer("values", None if given is None else torch.tensor(given, device="cpu"), persistent=False)

    def fit(self, counts: Tensor) -> None:
        """Turn ``balanced`` into weights; a class without examples counts as if it had one."""
        if self.balanced:
            self.values = counts.sum() / (len(counts) * counts.clamp_min(1).float())

    def of(self, targets: Tensor, outputs: Tensor) -> Tensor | None:
        """The weight of each example (B,), or None when all weigh the same.

        Raises:
            ConfigError: the list has another length than there are classes, or the targets are no classes.
        """
        if self.values is not None and targets.is_floating_point():
            raise ConfigError("loss.class_weights is for classes, and here are none: use loss.class_weights=null")
        values = self.per_class(outputs)
        return None if values is None else values.index_select(0, targets)

    def per_class(self, outputs: Tensor) -> Tensor | None:
        """The weights (C,) with the outputs' device and type; None when there are none."""
        if self.values is None:
            return None
        classes = max(2, outputs.shape[1])
        if len(self.values) != classes:
            raise ConfigError(
                f"loss.class_weights has {len(self.values)} numbers for {classes} classes; give one per class or "
                "loss.class_weights=balanced"
            )
        return self.values.to(outputs)


def mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (B,), weighted by ``weights`` (B,) where there are any."""
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def _check_smoothing(value: float) -> float:
    if not 0 <= value < 1:
        raise ConfigError(f"loss.label_smoothing={value} must be at least 0 and below 1; use for example 0.1")
    return value


class CrossEntropy(nn.Module):
    """-log softmax(outputs)[target]: the log-likelihood of the right class, or of the right token.

    Args:
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
        class_weights: None, ``"balanced"`` or one number per class.
    """

    tasks = CLASSIFICATION | {"language_modelling"}
    binary_units = 2

    def __init__(self, label_smoothing: float = 0.0, class_weights: Weights = None) -> None:
        super().__init__()
        self.label_smoothing = _check_smoothing(label_smoothing)
        self.weights = ClassWeights(class_weights)

    def fit(self, counts: Tensor) -> None:
        """Set balanced class weights from the training counts (C,)."""
        self.weights.fit(counts)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, C), class indices (B,) -> 0-d."""
        weight = self.weights.per_class(outputs)
        return F.cross_entropy(outputs, targets, weight=weight, label_smoothing=self.label_smoothing)


class BinaryCrossEntropy(nn.Module):
    """-y log p - (1 - y) log(1 - p) with p = sigmoid(output); with more units one such question per class or pixel.

    Args:
        label_smoothing: targets 0 and 1 become e/2 and 1 - e/2.
        class_weights: None, ``"balanced"`` or one number per class; pixels have no classes.
    """

    tasks = CLASSIFICATION | PIXELS | LIKELIHOOD
    binary_units = 1

    def __init__(self, label_smoothing: float = 0.0, class_weights: Weights = None) -> None:
        super().__init__()
        self.label_smoothing = _check_smoothing(label_smoothing)
        self.weights = ClassWeights(class_weights)

    def fit(self, counts: Tensor) -> None:
        """Set balanced class weights from the training counts (C,)."""
        self.weights.fit(counts)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N...), class indices (B,) or pixels (B, N...) from 0 to 1 -> 0-d."""
        wanted = numbers(outputs, targets) * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").flatten(1).mean(1)
        return mean(losses, self.weights.of(targets, outputs))


class MeanSquaredError(nn.Module):
    """(output - target)^2; for classification against one-hot rows (or 0 and 1)."""

    tasks = NUMBERS | LIKELIHOOD
    binary_units = 2

    def fit(self, counts: Tensor) -> None:
        """Nothing to learn from class counts."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N...), targets (B, N...) or class indices (B,) -> 0-d."""
        return F.mse_loss(outputs, numbers(outputs, targets))


class MeanAbsoluteError(nn.Module):
    """|output - target|; for classification against one-hot rows (or 0 and 1)."""

    tasks = NUMBERS
    binary_units = 2

    def fit(self, counts: Tensor) -> None:
        """Nothing to learn from class counts."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N...), targets (B, N...) or class indices (B,) -> 0-d."""
        return F.l1_loss(outputs, numbers(outputs, targets))


class Huber(nn.Module):
    """Squared error / 2 up to ``delta``, straight beyond: delta (|d| - delta/2) (Huber 1964).

    Args:
        delta: distance, in the units the task scales targets to, where the square becomes a line.
    """

    tasks = NUMBERS
    binary_units = 2

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        if delta <= 0:
            raise ConfigError(f"loss.delta={delta} must be positive; use for example 1.0")
        self.delta = delta

    def fit(self, counts: Tensor) -> None:
        """Nothing to learn from class counts."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N...), targets (B, N...) or class indices (B,) -> 0-d."""
        return F.huber_loss(outputs, numbers(outputs, targets), delta=self.delta)


class Hinge(nn.Module):
    """max(0, 1 - y output)^power with y = +-1: the support vector machine's loss.

    With more units each class against the rest, as in Y. Tang, "Deep Learning using Linear Support Vector Machines",
    2013, but as a mean over the classes where the paper has a sum.

    Args:
        power: 1 for the hinge, 2 for the squared hinge (Tang's L2-SVM).
        class_weights: None, ``"balanced"`` or one number per class.
    """

    tasks = CLASSIFICATION
    binary_units = 1

    def __init__(self, power: int = 1, class_weights: Weights = None) -> None:
        super().__init__()
        if power not in (1, 2):
            raise ConfigError(f"loss.power={power} must be 1 (loss=hinge) or 2 (loss=squared_hinge)")
        self.power = power
        self.weights = ClassWeights(class_weights)

    def fit(self, counts: Tensor) -> None:
        """Set balanced class weights from the training counts (C,)."""
        self.weights.fit(counts)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N), class indices (B,) -> 0-d."""
        signs = 2 * one_hot(targets, outputs) - 1
        losses = torch.relu(1 - signs * outputs).pow(self.power).mean(1)
        return mean(losses, self.weights.of(targets, outputs))


class Focal(nn.Module):
    """(1 - p)^gamma (-log p), p the probability of the right class: easy examples count less.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation (4); gamma 0 is cross-entropy.
    One unit is a sigmoid, more units are a softmax. Differs from the paper in: 1. a mean over the batch, where it
    divides by the number of assigned anchors; 2. alpha is ``class_weights``.

    Args:
        gamma: how much less.
        class_weights: None, ``"balanced"`` or one number per class.
    """

    tasks = CLASSIFICATION
    binary_units = 1

    def __init__(self, gamma: float = 2.0, class_weights: Weights = None) -> None:
        super().__init__()
        if gamma < 0:
            raise ConfigError(f"loss.gamma={gamma} must not be negative; use for example 2.0")
        self.gamma = gamma
        self.weights = ClassWeights(class_weights)

    def fit(self, counts: Tensor) -> None:
        """Set balanced class weights from the training counts (C,)."""
        self.weights.fit(counts)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, N), class indices (B,) -> 0-d."""
        if outputs.shape[1] == 1:
            surprise = F.binary_cross_entropy_with_logits(outputs, one_hot(targets, outputs), reduction="none").mean(1)
        else:
            surprise = F.cross_entropy(outputs, targets, reduction="none")  # -log p, (B,)
        # The smallest normal number keeps the slope of 0^gamma finite where p is 1 exactly.
        wrong = (-torch.expm1(-surprise)).clamp_min(torch.finfo(outputs.dtype).tiny)
        return mean(wrong.pow(self.gamma) * surprise, self.weights.of(targets, outputs))

"""What a training step is, by kind of case, as a person writes it by hand with PyTorch; the same for every way.

Shapes: B examples of a batch, T positions of a text, V tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

Step = Callable[[Tensor, Tensor], Tensor]
Optimizers = Sequence[Optimizer]


class Kind(Protocol):
    """How one kind of network is trained, and by what it is seen that it was.

    Attributes:
        supervised: whether one loss of (outputs, targets) trains it, so that any runner can.
        metric: the name of the figure that says how far the training came.
        classes: whether the targets are classes, with a softmax in the loss.
    """

    supervised: bool
    metric: str
    classes: bool

    def modules(self, model: Any) -> list[nn.Module]:
        """The networks that have an optimizer each."""
        ...

    def step(self, model: Any, optimizers: Optimizers) -> Step:
        """A training step: inputs (B, ...), targets -> the loss, 0-d."""
        ...

    def measure(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        """The metric on held-out examples, 0-d."""
        ...


class Supervised:
    """Forward, loss, backward, step."""

    supervised = True

    def __init__(
        self, metric: str, loss: Callable[[Tensor, Tensor], Tensor], classes: bool, batch_statistics: bool = False
    ) -> None:
        self.metric, self.loss, self.classes, self.batch_statistics = metric, loss, classes, batch_statistics

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The network."""
        return [model]

    def step(self, model: nn.Module, optimizers: Optimizers) -> Step:
        """The training step of the tutorials."""
        (optimizer,) = optimizers

        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    def measure(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss; after few steps running statistics are still far off, so batch normalisation uses the batch's."""
        model.train(self.batch_statistics)
        return self.loss(model(x), y)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Scores (B, C) and classes (B,), or scores (B, T, V) and tokens (B, T) -> 0-d."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over all pixels, 0-d."""
    return F.mse_loss(outputs, targets)


class Adversarial:
    """A step of the discriminator, then one of the generator, which costs the discriminator's weights no gradient."""

    supervised, classes = False, False
    metric = "distance of the mean generated image"

    def modules(self, model: Any) -> list[nn.Module]:
        """Generator and discriminator."""
        return [model.generator, model.discriminator]

    def step(self, model: Any, optimizers: Optimizers) -> Step:
        """Non-saturating losses; logits, so that softplus is the cross-entropy."""
        to_generate, to_tell = optimizers
        generator, discriminator = model.generator, model.discriminator

        def step(x: Tensor, y: Tensor) -> Tensor:
            to_tell.zero_grad()
            with torch.no_grad():
                fake = generator(model.noise(len(x)))
            told = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(fake)).mean()
            told.backward()
            to_tell.step()
            to_generate.zero_grad()
            discriminator.requires_grad_(False)
            loss = F.softplus(-discriminator(generator(model.noise(len(x))))).mean()
            loss.backward()
            to_generate.step()
            discriminator.requires_grad_(True)
            return told

        return step

    def measure(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        """Root mean square difference, pixel by pixel, of the mean generated and the mean real image."""
        return (model.generator(model.noise(1000)).mean(0) - x.mean(0)).square().mean().sqrt()


class Boltzmann:
    """CD-1 with the gradient written out."""

    supervised, classes = False, False
    metric = "squared reconstruction error"

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The machine."""
        return [model]

    def step(self, model: Any, optimizers: Optimizers) -> Step:
        """Positive phase, one Gibbs step, negative phase, update."""
        (optimizer,) = optimizers
        weight, visible_bias, hidden_bias = model.weight, model.visible_bias, model.hidden_bias

        @torch.no_grad()
        def step(x: Tensor, y: Tensor) -> Tensor:
            v = x.flatten(1)
            h = torch.sigmoid(F.linear(v, weight, hidden_bias))
            mean = torch.sigmoid(torch.addmm(visible_bias, torch.bernoulli(h), weight))
            v1 = torch.bernoulli(mean)
            h1 = torch.sigmoid(F.linear(v1, weight, hidden_bias))
            weight.grad = (h1.T @ v1 - h.T @ v) / len(v)
            visible_bias.grad = (v1 - v).mean(0)
            hidden_bias.grad = (h1 - h).mean(0)
            optimizer.step()
            return (v - mean).square().sum(1).mean()

        return step

    def measure(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        """Mean over examples of the squared error of one step down and up, summed over pixels."""
        v = x.flatten(1)
        h = torch.sigmoid(F.linear(v, model.weight, model.hidden_bias))
        return (torch.sigmoid(F.linear(h, model.weight.T, model.visible_bias)) - v).square().sum(1).mean()


CLASSIFY = Supervised("cross-entropy, nats", cross_entropy, classes=True)
CLASSIFY_NORMALISED = Supervised("cross-entropy, nats", cross_entropy, classes=True, batch_statistics=True)
RECONSTRUCT = Supervised("mean squared error", squared_error, classes=False)
ADVERSARIAL, BOLTZMANN = Adversarial(), Boltzmann()

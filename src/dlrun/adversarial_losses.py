"""The losses of adversarial training: what the discriminator and what the generator are to lower.

A discriminator D gives one score per example, high for real ones; its sigmoid is the probability of being real. A
generator G makes examples of noise z. Each loss has two sides, which take scores and no examples.

``penalty`` weighs a term that any of them may add to the discriminator's side: (|grad_x D(x)| - 1)^2 on straight lines
between real and generated examples (Gulrajani et al. 2017, equation 3). Only Wasserstein's loss rests on it; W. Fedus
et al., "Many Paths to Equilibrium", ICLR 2018, found it of use for the others.

Shapes: B examples of a batch, scores (B, 1) or (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.errors import ConfigError

GENERATION = frozenset({"generation"})


class AdversarialLoss(Protocol):
    """What adversarial training asks of a loss.

    Attributes:
        penalty: weight of the gradient penalty; 0 leaves it out.
    """

    penalty: float

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scores of real and of generated examples -> 0-d, which the discriminator lowers."""
        ...

    def generator(self, fake: Tensor) -> Tensor:
        """Scores of generated examples -> 0-d, which the generator lowers."""
        ...


class NonSaturating:
    """D: -log D(x) - log(1 - D(G(z))); G: -log D(G(z)).

    I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, equation (1), with the generator's side that
    section 3 advises: log(1 - D(G(z))) has no slope where the discriminator is sure.

    Args:
        penalty: weight of the gradient penalty.
    """

    tasks = GENERATION
    binary_units = 1

    def __init__(self, penalty: float = 0.0) -> None:
        self.penalty = checked(penalty)

    def fit(self, counts: Tensor) -> None:
        """Nothing to learn from class counts."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Cross-entropy against "real" and "generated"; -log sigmoid(s) is softplus(-s)."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Cross-entropy of generated examples against "real"."""
        return F.softplus(-fake).mean()


class LeastSquares:
    """D: ((D(x) - 1)^2 + D(G(z))^2) / 2; G: (D(G(z)) - 1)^2 / 2.

    X. Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, equation (9), labels 0 and 1.

    Args:
        penalty: weight of the gradient penalty.
    """

    tasks = GENERATION
    binary_units = 1

    def __init__(self, penalty: float = 0.0) -> None:
        self.penalty = checked(penalty)

    def fit(self, counts: Tensor) -> None:
        """Nothing to learn from class counts."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Squared distance of real scores from 1 and of generated ones from 0."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor) -> Tensor:
        """Squared distance of generated scores from 1."""
        return (fake - 1).square().mean() / 2


class Wasserstein:
    """D: D(G(z)) - D(x); G: -D(G(z)): the earth mover's distance, as long as D's slope is at most 1.

    M. Arjovsky, S. Chintala, L. Bottou, "Wasserstein Generative Adversarial Networks", ICML 2017; the slope is held by
    the gradient penalty of I. Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, instead of
    clipped weights. Goes with ``algorithm.critic_steps=5`` and a discriminator without batch normalisation.

    Args:
        penalty: weight of the gradient penalty, lambda in the paper.
    """

    tasks = GENERATION
    binary_units = 1

    def __init__(self, penalty: float = 10.0) -> None:
        self.penalty = checked(penalty)

    def fit(self, counts: Tensor) -> None:
        """Nothing to learn from class counts."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean generated score less mean real score."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Minus the mean generated score."""
        return -fake.mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (|grad_x D(x)| - 1)^2 at random places between real and generated examples, differentiable; 0-d.

    Gulrajani et al. 2017, algorithm 1, lines 4 to 7.

    Args:
        discriminator: (B, ...) -> (B, 1), each score from its own example alone.
        real: (B, ...).
        fake: (B, ...).
    """
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    between = torch.lerp(fake, real, share).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    steepness: Tensor = slope.flatten(1).norm(dim=1)
    return (steepness - 1).square().mean()


def checked(penalty: float) -> float:
    """``penalty`` if it is a weight.

    Raises:
        ConfigError: it is negative.
    """
    if penalty < 0:
        raise ConfigError(f"loss.penalty={penalty} must not be negative; use 10 as Gulrajani et al., or 0 for none")
    return penalty

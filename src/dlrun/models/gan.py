"""A generative adversarial network of fully connected layers: one net makes examples, one tells them from real ones.

G: z -> hidden layers -> x; D: x -> hidden layers -> one score, high for real examples.
Source: I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014. Differs from it in: 1. leaky rectifiers
(slope 0.2, as Radford et al. 2015 have them) in both nets, where it has rectifiers in G and maxout with dropout in D;
2. normal noise for its uniform; 3. images end in a tanh, from -1 to 1, where it has a sigmoid.

Shapes: B batch, Z latent values, F values of one example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.mlp import hidden_layers

SLOPE = 0.2


class GAN(nn.Module):
    """Generator and discriminator, mirror images of each other.

    Args:
        in_shape: shape of one example: an image (C, H, W) from -1 to 1, or (F,) values of any size.
        latent: number of noise values that an example is made of.
        hidden: units of the generator's hidden layers; the discriminator has them in reverse.

    Raises:
        ConfigError: there is no hidden layer or noise, or a layer has no units.
    """

    def __init__(self, in_shape: tuple[int, ...], latent: int = 64, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.latent = checked_latent(latent)
        if not hidden:
            raise ConfigError("model.hidden=[] leaves nothing to learn with; use for example [128,128]")
        values = math.prod(in_shape)
        rectifier = partial(nn.LeakyReLU, SLOPE)
        self.generator = nn.Sequential(
            hidden_layers(latent, hidden, rectifier, dropout=0.0, batch_norm=False),
            nn.Linear(hidden[-1], values),
            nn.Tanh() if len(in_shape) == 3 else nn.Identity(),
            nn.Unflatten(1, in_shape),
        )
        self.discriminator = nn.Sequential(
            nn.Flatten(),
            hidden_layers(values, hidden[::-1], rectifier, dropout=0.0, batch_norm=False),
            nn.Linear(hidden[0], 1),
        )

    def noise(self, count: int) -> Tensor:
        """Normal noise (count, Z) to make examples of, on the model's device."""
        return torch.randn(count, self.latent, device=next(self.parameters()).device)

    def forward(self, x: Tensor) -> Tensor:
        """Examples (B, *in_shape) -> the discriminator's scores (B, 1)."""
        scores: Tensor = self.discriminator(x)
        return scores


def checked_latent(latent: int) -> int:
    """``latent`` if it is a number of values.

    Raises:
        ConfigError: it is below 1.
    """
    if latent < 1:
        raise ConfigError(f"model.latent={latent} must be at least 1; use for example 64")
    return latent

"""The variational autoencoder: a code with a distribution, from which new examples are drawn.

Encoder: q(z|x) = N(mean(x), diag exp log_variance(x)). Decoder: p(x|z) from raw outputs (logits, or means of a
Gaussian). Prior: p(z) = N(0, I). The task puts them together into the evidence lower bound.
Source: D. Kingma, M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014, appendix C: one hidden layer of 500 units
on either side, Gaussian encoder, Bernoulli or Gaussian decoder.
Differs from it in: 1. any number of hidden layers and any activation, where it has one layer of tanh; 2. layers start
as torch's ``nn.Linear`` does, where it draws from N(0, 0.01); 3. the variance of a Gaussian decoder is the task's
constant and no output.
Measured on MNIST with experiment=vae_mnist (20-d code, 10 epochs, pixels drawn as 0 or 1), seed 0: test bound -102.9
nats, where independent pixels have -205.7.

Shapes: B batch, F input values of one example, H hidden units, K units of the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from dlrun.models.autoencoder import check_widths


class VAE(nn.Module):
    """Fully connected encoder and decoder with a Gaussian code.

    Args:
        in_shape: shape of one example; it is flattened, and the output has it again.
        activation: makes the activation of a hidden layer.
        hidden: units of the encoder's hidden layers; the decoder has them in reverse.
        code: dimensions of the code.

    Raises:
        ConfigError: a layer without units.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        activation: Callable[[], nn.Module],
        hidden: Sequence[int] = (500,),
        code: int = 20,
    ) -> None:
        super().__init__()
        check_widths(hidden, code)
        self.in_shape, self.code_features = in_shape, code
        features = math.prod(in_shape)
        self.encoder = _layers([features, *hidden], activation)
        self.posterior_layer = nn.Linear((features, *hidden)[-1], 2 * code)
        self.decoder = _layers([code, *reversed(hidden)], activation)
        self.output = nn.Linear((code, *reversed(hidden))[-1], features)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction from the mean of the code: (B, *in_shape) -> (B, *in_shape)."""
        return self.decode(self.encode(x))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code: (B, *in_shape) -> (B, K), (B, K)."""
        mean, log_variance = self.posterior_layer(self.encoder(x.flatten(1))).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, x: Tensor) -> Tensor:
        """The mean of the code: (B, *in_shape) -> (B, K)."""
        return self.posterior(x)[0]

    def decode(self, code: Tensor) -> Tensor:
        """Raw outputs, logits or means: (B, K) -> (B, *in_shape)."""
        out: Tensor = self.output(self.decoder(code))
        return out.reshape(-1, *self.in_shape)


def _layers(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for below, above in pairwise(widths):
        layers += [nn.Linear(below, above), activation()]
    return nn.Sequential(*layers)

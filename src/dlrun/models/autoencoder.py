"""The deep autoencoder: a network that squeezes its input through a few units, the code, and draws it again.

h_0 = x; h_l = f(W_l h_(l-1) + b_l) for each hidden layer; z = W h + b, a linear code; then the same widths back, each
layer with weights V_l of its own or, when tied, with the transpose of W_l; the output layer is linear.
Source: G. Hinton, R. Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006, with
its 784-1000-500-250-30 network for MNIST as the default.
Differs from it in: 1. any activation f, where it has the logistic one; 2. the output's logistic unit is in the loss
(loss=bce), with the squared error the output is the identity; 3. the pretraining by restricted Boltzmann machines is
optional (algorithm=layerwise, with activation=sigmoid); without it the weights start as in Y. LeCun et al., "Efficient
BackProp", 1998, since torch's own start lets the signal fade over eight layers; 4. any optimizer, where it has
conjugate gradients.
Measured on MNIST with experiment=autoencoder_mnist, seed 0: squared error per test image 7.74 after 5 epochs, 5.27
after 20, where principal component analysis with 30 components has 13.87.

Shapes: B batch, F input values of one example, H units of a hidden layer, K units of the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError
from dlrun.models.rbm import RBMView


class Autoencoder(nn.Module):
    """A symmetric fully connected encoder and decoder with a linear code between them.

    Args:
        in_shape: shape of one example; it is flattened, and the output has it again.
        activation: makes the activation of a hidden layer.
        hidden: units of the hidden layers from the input to the code; the decoder has them in reverse.
        code: units of the code.
        tied: the decoder's weights are the encoder's, transposed; its biases are its own.

    Raises:
        ConfigError: a layer without units.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        activation: Callable[[], nn.Module],
        hidden: Sequence[int] = (1000, 500, 250),
        code: int = 30,
        tied: bool = False,
    ) -> None:
        super().__init__()
        check_widths(hidden, code)
        widths = (math.prod(in_shape), *hidden, code)
        self.in_shape, self.code_features = in_shape, code
        down = [nn.Linear(below, above) for below, above in pairwise(widths)]
        up = [Transposed(layer) if tied else nn.Linear(layer.out_features, layer.in_features) for layer in down[::-1]]
        self.encoder, self.decoder = nn.ModuleList(down), nn.ModuleList(up)
        self.encoder_activations = nn.ModuleList(activation() for _ in hidden)
        self.decoder_activations = nn.ModuleList(activation() for _ in hidden)
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction: (B, *in_shape) -> (B, *in_shape)."""
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """The code: (B, *in_shape) -> (B, K)."""
        return _through(self.encoder, self.encoder_activations, x.flatten(1))

    def decode(self, code: Tensor) -> Tensor:
        """What a code stands for: (B, K) -> (B, *in_shape)."""
        return _through(self.decoder, self.decoder_activations, code).reshape(-1, *self.in_shape)

    def _mirrored(self) -> list[tuple[nn.Linear, nn.Linear | Transposed]]:
        """The encoder's layers from the input up, each with the layer of the decoder that goes back."""
        return list(zip(self.encoder, list(self.decoder)[::-1], strict=True))  # type: ignore[arg-type]

    def stack(self) -> list[RBMView]:
        """The encoder as restricted Boltzmann machines, from the input up; the decoder has their visible biases.

        Raises:
            ConfigError: the hidden units are not logistic ones, as those of a Boltzmann machine are.
        """
        if not all(isinstance(unit, nn.Sigmoid) for unit in self.encoder_activations):
            raise ConfigError("pretraining by Boltzmann machines needs logistic hidden units: use activation=sigmoid")
        last = len(self.encoder) - 1
        pixels = "bernoulli" if len(self.in_shape) == 3 else "gaussian"  # from 0 to 1, or standardised
        return [
            RBMView(
                weight=layer.weight,
                visible_bias=mirror.bias,
                hidden_bias=layer.bias,
                visible="bernoulli" if number else pixels,
                hidden="bernoulli" if number < last else "gaussian",
            )
            for number, (layer, mirror) in enumerate(self._mirrored())
        ]

    @torch.no_grad()
    def unroll_stack(self) -> None:
        """Give the decoder the encoder's weights, transposed; tied ones are so already."""
        for layer, mirror in self._mirrored():
            if isinstance(mirror, nn.Linear):
                mirror.weight.copy_(layer.weight.t())


class Transposed(nn.Module):
    """A layer backwards: its weight transposed, with a bias of its own, (B, above) -> (B, below)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._layer = (layer,)  # in a tuple, so that its weight is not registered, and stored, a second time
        self.bias = nn.Parameter(layer.weight.new_zeros(layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """x W + c."""
        return F.linear(x, self._layer[0].weight.t(), self.bias)


def _through(layers: nn.ModuleList, activations: nn.ModuleList, x: Tensor) -> Tensor:
    """Linear and activation in turn; the last layer has no activation."""
    for layer, activation in zip(layers, activations, strict=False):
        x = activation(layer(x))
    out: Tensor = layers[-1](x)
    return out


def start(model: nn.Module) -> None:
    """Draw the weights of a unit from N(0, 1 / its inputs) (LeCun et al. 1998), with biases of zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_widths(hidden: Sequence[int], code: int) -> None:
    """Refuse a layer without units with a ConfigError."""
    if any(units < 1 for units in hidden):
        raise ConfigError(f"model.hidden={list(hidden)} has a layer without units; use for example [500,250]")
    if code < 1:
        raise ConfigError(f"model.code={code} must be at least 1; use for example model.code=30")

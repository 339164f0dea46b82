"""The deep Boltzmann machine: layers of binary units, each connected with the one below and the one above.

E(v, h1, h2) = -h1.W1 v - h2.W2 h1 - biases, so that a middle layer hears from both sides. Its posterior comes from mean
field: h1 = sigmoid(W1 v + W2' h2 + b1), h2 = sigmoid(W2 h1 + b2), repeated from a pass upwards with doubled inputs.
Source: R. Salakhutdinov, G. Hinton, "Deep Boltzmann Machines", AISTATS 2009. Pretraining (section 3.1) by
``algorithm=layerwise``: each layer is a restricted Boltzmann machine that counts the input of the layer it will later
share with another machine twice, so that the parts, put together, need no halving.
Differs from it in: 1. fine-tuned as a classifier by backpropagation through the mean-field iterations themselves, with
their weights shared, where the paper builds a network that takes the mean-field posterior as further inputs; 2. the
generative training of all layers together by persistent chains (section 2.2) between the two is left out; 3. a middle
layer's bias after pretraining is the mean of those that the machines below and above it have learnt; 4. optional
dropout (Srivastava et al. 2014), one mask per example for all iterations.
Measured on MNIST (experiment=dbm_mnist, seed 0, one CPU core, 325 s): test error 1.40 %; the paper has 0.95 % with as
many units and a model that is trained as a whole.

Shapes: B batch, V visible units, H_l units of hidden layer l, N output units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.rbm import Batches, RBMView, base_bias, small_weights


class DBM(nn.Module):
    """A deep Boltzmann machine whose top layer's mean-field posterior feeds a linear output layer.

    Args:
        in_shape: shape of one example; it is flattened into the V visible units, which take values from 0 to 1.
        out_features: N, the number of output units.
        hidden: H_1, H_2, ...: two or more layers.
        iterations: mean-field sweeps after the first pass upwards.
        dropout: share of hidden units switched off at random in training.
        input_dropout: share of visible units switched off at random in training.

    Raises:
        ConfigError: fewer than two hidden layers, a layer without units, or a share out of its range.
    """

    pixels: ClassVar[str] = "unit"  # the range it takes images in

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        hidden: Sequence[int] = (500, 1000),
        iterations: int = 2,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_layers(hidden, 2, "dbm")
        if iterations < 0:
            raise ConfigError(f"model.iterations={iterations} must be at least 0; use for example 2")
        self.iterations = iterations
        sizes = (math.prod(in_shape), *hidden)
        self.layers = binary_layers(sizes)
        add_visible_biases(self, sizes)
        self.input_dropout, self.dropout = dropout_of("input_dropout", input_dropout), dropout_of("dropout", dropout)
        self.output = nn.Linear(hidden[-1], out_features)

    def stack(self) -> list[RBMView]:
        """A machine for each two neighbouring layers, for pretraining: a layer that ends up between two counts double.

        The lowest one doubles its way up, the highest its way down, those between them both.
        """
        top = len(self.layers) - 1
        scales = [(1.0 if number == top else 2.0, 1.0 if number == 0 else 2.0) for number in range(top + 1)]
        return stacked(self.layers, visible_biases(self), scales)

    @torch.no_grad()
    def unroll_stack(self) -> None:
        """Put the pretrained machines together: a middle layer's bias becomes the mean of the two it has learnt."""
        for layer, bias in zip(linears(self.layers)[:-1], visible_biases(self)[1:], strict=True):
            layer.bias.lerp_(bias, 0.5)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Start the visible biases at the training part's means.

        Raises:
            ConfigError: the inputs are not from 0 to 1.
        """
        visible_biases(self)[0].copy_(base_bias(batches, "bernoulli"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, N)."""
        out: Tensor = self.output(self.posterior(x.flatten(1))[-1])
        return out

    def posterior(self, visible: Tensor) -> list[Tensor]:
        """Mean-field means of every hidden layer: (B, V) -> [(B, H_1), (B, H_2), ...]."""
        layers = linears(self.layers)
        masks = [self.dropout(visible.new_ones(len(visible), layer.out_features)) for layer in layers]
        first = layers[0](self.input_dropout(visible))  # (B, H_1): the data's part, the same in every sweep
        means = [masks[0] * torch.sigmoid(2 * first - layers[0].bias)]
        for layer, mask in zip(layers[1:], masks[1:], strict=True):
            twice = 1 if layer is layers[-1] else 2  # on the way up what is below stands in for what is above
            means.append(mask * torch.sigmoid(layer(twice * means[-1])))
        for _ in range(self.iterations):
            for number, (layer, mask) in enumerate(zip(layers, masks, strict=True)):
                total = layer(means[number - 1]) if number else first
                if number + 1 < len(layers):
                    total = total + means[number + 1] @ layers[number + 1].weight
                means[number] = mask * torch.sigmoid(total)
        return means


def check_layers(hidden: Sequence[int], least: int, family: str) -> None:
    """Refuse too few layers, or one without units."""
    if len(hidden) < least or any(units < 1 for units in hidden):
        raise ConfigError(
            f"model.hidden={list(hidden)}: a {family} needs at least {least} layers with units in each; "
            "use for example model.hidden=[500,1000]"
        )


def dropout_of(key: str, share: float) -> nn.Dropout:
    """Dropout of this share; refuses what is none."""
    if not 0 <= share < 1:
        raise ConfigError(f"model.{key}={share} must be at least 0 and below 1; use for example model.{key}=0.2")
    return nn.Dropout(share)


def binary_layers(sizes: Sequence[int]) -> nn.ModuleList:
    """A linear layer from each size to the next, with weights of deviation 0.01 and biases of 0."""
    layers = nn.ModuleList()
    for below, above in pairwise(sizes):
        layer = nn.Linear(below, above)
        layer.weight = nn.Parameter(small_weights(above, below))
        nn.init.zeros_(layer.bias)
        layers.append(layer)
    return layers


def linears(layers: nn.ModuleList) -> list[nn.Linear]:
    """The layers of ``binary_layers``."""
    return cast("list[nn.Linear]", list(layers))


def add_visible_biases(model: nn.Module, sizes: Sequence[int]) -> None:
    """Buffers for the biases of the units below each layer: pretraining alone needs and changes them."""
    for number, size in enumerate(sizes[:-1]):
        model.register_buffer(f"visible_bias_{number}", torch.zeros(size))


def visible_biases(model: nn.Module) -> list[Tensor]:
    """The buffers of ``add_visible_biases``, from the bottom up."""
    return [buffer for name, buffer in model.named_buffers() if name.startswith("visible_bias_")]


def stacked(layers: nn.ModuleList, biases: Sequence[Tensor], scales: Sequence[tuple[float, float]]) -> list[RBMView]:
    """A machine for each layer and the one below, with its scales on the way up and down."""
    return [
        RBMView(layer.weight, bias, layer.bias, up_scale=up, down_scale=down)
        for layer, bias, (up, down) in zip(linears(layers), biases, scales, strict=True)
    ]

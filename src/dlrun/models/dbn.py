"""The deep belief network: restricted Boltzmann machines on top of one another, each on the features of the one below.

Source: G. Hinton, S. Osindero, Y. Teh, "A Fast Learning Algorithm for Deep Belief Nets", Neural Computation 18, 2006.
Greedy pretraining by ``algorithm=layerwise``, then fine-tuning as a classifier (Hinton and Salakhutdinov 2006):
h_l = sigmoid(W_l h_(l-1) + b_l), output = W h_L + b.
Differs from it in: 1. the labels are an output layer that is trained by backpropagation, where the paper gives them to
the top machine as further visible units; 2. the up-down algorithm, which trains all layers as a generative model, is
left out; 3. optional dropout after each layer (Srivastava et al. 2014).

Shapes: B batch, V visible units, H_l units of hidden layer l, N output units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dlrun.models.dbm import add_visible_biases, binary_layers, check_layers, dropout_of, stacked, visible_biases
from dlrun.models.rbm import Batches, RBMView, base_bias


class DBN(nn.Module):
    """A deep belief network whose top features feed a linear output layer.

    Args:
        in_shape: shape of one example; it is flattened into the V visible units, which take values from 0 to 1.
        out_features: N, the number of output units.
        hidden: H_1, H_2, ..., from the bottom up.
        dropout: share of hidden units switched off at random in training.
        input_dropout: share of visible units switched off at random in training.

    Raises:
        ConfigError: a layer without units, or a share out of its range.
    """

    pixels: ClassVar[str] = "unit"  # the range it takes images in

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        hidden: Sequence[int] = (500, 500, 2000),
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_layers(hidden, 1, "dbn")
        sizes = (math.prod(in_shape), *hidden)
        self.layers = binary_layers(sizes)
        add_visible_biases(self, sizes)
        self.input_dropout, self.dropout = dropout_of("input_dropout", input_dropout), dropout_of("dropout", dropout)
        self.output = nn.Linear(hidden[-1], out_features)

    def stack(self) -> list[RBMView]:
        """A machine for each two neighbouring layers, for pretraining."""
        return stacked(self.layers, visible_biases(self), [(1.0, 1.0)] * len(self.layers))

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Start the visible biases at the training part's means.

        Raises:
            ConfigError: the inputs are not from 0 to 1.
        """
        visible_biases(self)[0].copy_(base_bias(batches, "bernoulli"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, N)."""
        features = self.input_dropout(x.flatten(1))
        for layer in self.layers:
            features = self.dropout(torch.sigmoid(layer(features)))  # (B, H_l)
        out: Tensor = self.output(features)
        return out

"""The perceptron: one layer of neurons, sum_i x_i w_i + b, with no hidden layer.

With mean squared error it is linear regression, with binary cross-entropy logistic regression, with cross-entropy
softmax regression, with the hinge loss a linear support vector machine.
Source: F. Rosenblatt, "The Perceptron", Psychological Review 65(6), 1958. Differs from it in: 1. the activation f is
the loss's (identity, sigmoid, softmax), not a step, so that it has a gradient; 2. any number of output units.

Shapes: B batch, F input values of one example (the product of ``in_shape``), N output units.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn


class Perceptron(nn.Module):
    """One linear layer from all input values to the outputs.

    Args:
        in_shape: shape of one example; it is flattened.
        out_features: number of output units.
        bias: whether each unit has a bias b.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(self, in_shape: tuple[int, ...], out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(in_shape), out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, N)."""
        out: Tensor = self.output(x.flatten(1))  # (B, F) -> (B, N)
        return out

"""The multilayer perceptron, or fully connected network: every unit sees every unit of the layer before.

h_0 = x; h_l = f(W_l h_(l-1) + b_l) for each hidden layer; output = W h_L + b.
Source: D. Rumelhart, G. Hinton, R. Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
Differs from it in: 1. any activation f; 2. optional batch normalisation before f (Ioffe, Szegedy 2015) and dropout
after it (Srivastava et al. 2014), both off by default; 3. weights start as torch's ``nn.Linear`` does,
uniform in +-1/sqrt(fan-in).

Shapes: B batch, F input values of one example, H units of a hidden layer, N output units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from dlrun.errors import ConfigError


class MLP(nn.Module):
    """Fully connected layers with an activation between them.

    Args:
        in_shape: shape of one example; it is flattened, so an image of 28x28 is 784 inputs.
        out_features: number of output units.
        activation: makes the activation of a hidden layer.
        hidden: units of each hidden layer, from input to output; empty gives a perceptron.
        dropout: share of the hidden units switched off at random in training.
        batch_norm: normalise each unit over the batch before its activation.

    Raises:
        ConfigError: a hidden layer has no units, or ``dropout`` is no share.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        activation: Callable[[], nn.Module],
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = hidden_layers(math.prod(in_shape), hidden, activation, dropout, batch_norm)
        self.output = nn.Linear((math.prod(in_shape), *hidden)[-1], out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, N)."""
        out: Tensor = self.output(self.hidden(self.flatten(x)))  # (B, F) -> (B, H) -> (B, N)
        return out


def hidden_layers(
    features: int, hidden: Sequence[int], activation: Callable[[], nn.Module], dropout: float, batch_norm: bool
) -> nn.Sequential:
    """Linear, optional normalisation, activation, optional dropout, once per entry of ``hidden``: (B, F) -> (B, H).

    Raises:
        ConfigError: a layer has no units, or ``dropout`` is no share.
    """
    if any(units < 1 for units in hidden):
        raise ConfigError(f"model.hidden={list(hidden)} has a layer without units; use for example [128,64]")
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout={dropout} must be at least 0 and below 1; use for example model.dropout=0.5")
    layers: list[nn.Module] = []
    for units in hidden:
        layers.append(nn.Linear(features, units))
        if batch_norm:
            layers.append(nn.BatchNorm1d(units))
        layers.append(activation())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        features = units
    return nn.Sequential(*layers)

"""Features learnt by one network as the first layers of another.

A restricted or deep Boltzmann machine, a deep belief network or an autoencoder has learnt layers from the input up;
a perceptron of the same sizes starts with them and learns only its last layers anew (G. Hinton, R. Salakhutdinov,
"Reducing the Dimensionality of Data with Neural Networks", Science 313, 2006).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError

Learnt = tuple[str, Tensor, Tensor | None]


@torch.no_grad()
def initialise(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy the layers of a trained network into the first layers of ``model``, up to the first that does not fit.

    The output layer keeps its own weights.

    Args:
        model: a network whose first layers are fully connected.
        state: ``state_dict`` of the trained network's model.

    Returns:
        One sentence for each layer that was copied.

    Raises:
        ConfigError: no layer fits.
    """
    learnt = learnt_layers(state)
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    said = []
    for (source, weight, bias), (name, layer) in zip(learnt, named[:-1], strict=False):
        if weight.shape != layer.weight.shape:
            break
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
        units, inputs = weight.shape
        said.append(f"layer '{name}' ({inputs} to {units} units) starts as '{source}' of the trained network")
    if not said:
        raise ConfigError(_misfit(learnt, named))
    return said


def learnt_layers(state: Mapping[str, Tensor]) -> list[Learnt]:
    """The name, weight (H, V) and bias (H,) of every fully connected layer of a ``state_dict``, in its order."""
    found: list[Learnt] = []
    for key, weight in state.items():
        prefix, _, last = key.rpartition(".")
        if last == "weight" and weight.ndim == 2:
            beside = (state.get(f"{prefix}.{name}" if prefix else name) for name in ("hidden_bias", "bias"))
            bias = next((bias for bias in beside if bias is not None), None)
            if bias is not None:  # a table of tokens or positions has none
                found.append((prefix or key, weight, bias))
    return found


def _misfit(learnt: list[Learnt], named: list[tuple[str, nn.Linear]]) -> str:
    if not learnt:
        return "trainer.init_from: that run's network has no fully connected layer to start from; name an rbm's run"
    units, inputs = learnt[0][1].shape
    here = f"{named[0][1].in_features} to {named[0][1].out_features}" if named[:-1] else "none before the output"
    return (
        f"trainer.init_from: that run's first layer has {inputs} inputs and {units} units, but the one here is {here}; "
        f"use model=mlp model.hidden=[{units}] on data of the same shape"
    )

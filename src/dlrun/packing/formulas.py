"""Functions of torch's that take a number as a Python float alone, written out so that each lane has its own.

``vmap`` cannot give a 0-d tensor to a float argument. Where such an argument is a tensor, ``Replay`` calls the formula
here instead: the same function, equal to torch's to rounding; where it is a float, torch's own runs. Arguments have
torch's own names.
"""

# ruff: noqa: A002

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: Any = 0.0,
) -> Tensor:
    """(1 - e) of the loss of the right class, and e of the mean loss of all C classes, each with its class's weight."""
    logs = input.log_softmax(1)
    plain = F.nll_loss(logs, target, weight, ignore_index=ignore_index, reduction=reduction)
    weighted = logs if weight is None else logs * weight.view(-1, *[1] * (input.dim() - 2))
    counted = target != ignore_index
    smooth = -weighted.sum(1) * counted / input.shape[1]
    if reduction == "sum":
        smooth = smooth.sum()
    elif reduction == "mean":
        known = torch.where(counted, target, 0)
        total = counted.sum() if weight is None else (weight[known] * counted).sum()
        smooth = smooth.sum() / total
    both: Tensor = (1 - label_smoothing) * plain + label_smoothing * smooth
    return both


def _huber(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: Any = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    far = (input - target).abs()
    losses = torch.where(far <= delta, far.square() / 2, delta * (far - delta / 2))
    losses = losses if weight is None else losses * weight
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


def _leaky_relu(input: Tensor, negative_slope: Any = 0.01, inplace: bool = False) -> Tensor:
    return torch.where(input > 0, input, input * negative_slope)


def _elu(input: Tensor, alpha: Any = 1.0, inplace: bool = False) -> Tensor:
    # Where x is large and positive e^x is infinite, and 0 times its slope NaN.
    return torch.where(input > 0, input, alpha * torch.expm1(torch.where(input > 0, 0.0, input)))


def _celu(input: Tensor, alpha: Any = 1.0, inplace: bool = False) -> Tensor:
    return torch.where(input > 0, input, alpha * torch.expm1(torch.where(input > 0, 0.0, input) / alpha))


def _hardshrink(input: Tensor, lambd: Any = 0.5) -> Tensor:
    return torch.where(input.abs() > lambd, input, 0.0)


def _softshrink(input: Tensor, lambd: Any = 0.5) -> Tensor:
    return torch.where(input > lambd, input - lambd, torch.where(input < -lambd, input + lambd, 0.0))


def _softplus(input: Tensor, beta: Any = 1.0, threshold: Any = 20.0) -> Tensor:
    scaled = input * beta
    straight = scaled > threshold
    return torch.where(straight, input, torch.where(straight, 0.0, scaled).exp().log1p() / beta)


def _per_lane(
    function: Callable[..., Any], names: tuple[str, ...], place: int, formula: Callable[..., Tensor]
) -> Callable[..., Any]:
    """``function`` where its numbers are floats, ``formula`` where one is a tensor.

    ``place`` is the position of the first of the arguments ``names``.
    """

    def chosen(*args: Any, **kwargs: Any) -> Any:
        given = (*args[place : place + len(names)], *(kwargs.get(name) for name in names))
        return (formula if any(isinstance(value, Tensor) for value in given) else function)(*args, **kwargs)

    return chosen


FORMULAS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    function: _per_lane(function, names, place, formula)
    for function, names, place, formula in (
        (F.cross_entropy, ("label_smoothing",), 7, _cross_entropy),
        (F.huber_loss, ("delta",), 3, _huber),
        (F.leaky_relu, ("negative_slope",), 1, _leaky_relu),
        (F.elu, ("alpha",), 1, _elu),
        (F.celu, ("alpha",), 1, _celu),
        (F.hardshrink, ("lambd",), 1, _hardshrink),
        (F.softshrink, ("lambd",), 1, _softshrink),
        (F.softplus, ("beta", "threshold"), 1, _softplus),
    )
}

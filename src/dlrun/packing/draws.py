"""Torch's operations that draw random numbers: what a run alone draws in them, and how a pack uses what was drawn.

A dropout draws and multiplies in one call. A pack needs the two apart: numbers are drawn for each lane from its own
generator, outside the stacked forward pass, which then only multiplies. So every operation here has two halves.
``site`` says what one call draws and in what layout: torch fills a tensor in the order of its memory, so the layout
decides which number lands where. ``use`` is the rest of the call, given the numbers. Arguments have torch's own names.

Read off ATen's CPU kernels (Dropout.cpp, DistributionTemplates.h of torch 2.15) and tested bit by bit against them.
"""

# ruff: noqa: A002

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.packing.flat import Unpackable

ALPHA = 1.7580993408473766  # -SELU's lower limit: what alpha dropout sets a unit to


@dataclass(frozen=True)
class Site:
    """What one lane draws in one call.

    Attributes:
        method: of ``torch.Tensor``, which fills a tensor in place: ``bernoulli_``, ``normal_``, ...
        arguments: of the method.
        shape: of the tensor.
        strides: of the tensor, so that it is filled in the run's own order.
        dtype: of the tensor.
        device: of the tensor.
        named: further arguments of the method, by name.
        share: probability of a zero, of a dropout; None for other operations. 0 and 1 draw nothing.
        scaled: divide by the probability of a one.
    """

    method: str
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    named: tuple[tuple[str, Any], ...] = ()
    share: float | None = None
    scaled: bool = False

    @property
    def extent(self) -> int:
        """Elements of memory from the first to the last."""
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def form(self) -> tuple[Any, ...]:
        """All that the lanes of a pack must have in common."""
        dropout = self.share is not None
        return self.method, self.shape, self.strides, self.dtype, self.device, dropout, self.scaled


@dataclass(frozen=True)
class Operation:
    """One of torch's functions, in two halves; each takes the function's own arguments at the end.

    Attributes:
        off: (...) -> whether the call draws nothing that is a lane's own.
        site: (result, ...) -> what it draws; None: nothing.
        use: (numbers or None where no lane draws, site, ...) -> what the function returns.
    """

    off: Callable[..., bool]
    site: Callable[..., Site | None]
    use: Callable[..., Tensor]


def like(tensor: Tensor, method: str, *arguments: Any, **more: Any) -> Site | None:
    """A site with the layout of a tensor; None where it has no elements."""
    if tensor.numel() == 0:
        return None
    return Site(method, arguments, tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, **more)


def _switched_off(share: float, site: Tensor, scaled: bool = True) -> Site | None:
    """Zeros with probability ``share`` in the layout of ``site``."""
    return like(site, "bernoulli_", 1 - share, share=share, scaled=scaled)


def _times(noise: Tensor | None, input: Tensor, inplace: bool) -> Tensor:
    if noise is None:
        return input
    return input.mul_(noise) if inplace else input * noise


def _eval(input: Tensor, p: Any = 0.5, training: bool = True, inplace: bool = False) -> bool:
    return not training


def _eval_unless_told(input: Tensor, p: Any = 0.5, training: bool = False, inplace: bool = False) -> bool:
    return not training


def _dropout_site(result: Tensor, input: Tensor, p: float = 0.5, *_: bool, **__: bool) -> Site | None:
    return _switched_off(p, torch.empty_like(input))


def _dropout(
    noise: Tensor | None,
    site: Site,
    input: Tensor,
    p: Any = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    return _times(noise, input, inplace)


def _maps(batched: int, scaled: bool = True) -> Callable[..., Site | None]:
    """The site of a dropout of whole feature maps; an input of fewer than ``batched`` dimensions is one example."""

    def site(result: Tensor, input: Tensor, p: float = 0.5, *_: bool, **__: bool) -> Site | None:
        kept = 2 if input.dim() >= batched else 1
        return _switched_off(p, input.new_empty(*input.shape[:kept], *[1] * (input.dim() - kept)), scaled)

    return site


def _alpha_site(result: Tensor, input: Tensor, p: float = 0.5, *_: bool, **__: bool) -> Site | None:
    return _switched_off(p, torch.empty_like(input), scaled=False)


def _alpha(
    noise: Tensor | None,
    site: Site,
    input: Tensor,
    p: Any = 0.5,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    if noise is None:
        return input
    scale = 1 / ((ALPHA * ALPHA * p + 1) * (1 - p)) ** 0.5
    shift = (noise - 1) * (ALPHA * scale) + ALPHA * scale * p
    return _times(noise * scale, input, inplace).add_(shift)  # to the product, which is the input where in place


def _never(*_: Any, **__: Any) -> bool:
    return False


def _attention_site(
    result: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, **_: Any
) -> Site | None:
    return _switched_off(dropout_p, query.new_empty(*query.shape[:-1], key.shape[-2]))


def _attention(
    noise: Tensor | None,
    site: Site,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: Any = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K' scale + mask) V written out: torch's fused kernels draw inside."""
    if noise is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale=scale)
    if enable_gqa:
        raise Unpackable("attention with dropout and fewer heads of keys than of queries (enable_gqa) does not pack")
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return scores.softmax(-1) * noise @ value


def _own_generator(*_: Any, generator: Any = None, **__: Any) -> bool:
    return generator is not None


def _made(method: str, *arguments: Any) -> Operation:
    """A function that makes a tensor of random numbers."""

    def site(result: Tensor, *_: Any, **__: Any) -> Site | None:
        return like(result, method, *arguments)

    return Operation(_own_generator, site, _as_drawn)


def _as_drawn(noise: Tensor | None, site: Site, *_: Any, **__: Any) -> Tensor:
    assert noise is not None  # only a dropout can have lanes that draw nothing
    return noise


def _integers(skip: int) -> Operation:
    """``randint`` and the like: from low (0 where it is left out) to below high, after ``skip`` others."""

    def site(result: Tensor, *given: Any, low: int = 0, high: int | None = None, **_: Any) -> Site | None:
        ends = [value for value in given[skip:] if isinstance(value, int)]
        if high is not None:
            ends = [*ends, high] if ends else [low, high]
        return like(result, "random_", *([0, *ends] if len(ends) == 1 else ends[:2]))

    return Operation(_own_generator, site, _as_drawn)


def _coins_site(result: Tensor, input: Tensor, p: Any = None, **_: Any) -> Site | None:
    """Of ``torch.bernoulli``: ones with the probabilities of the input, or with probability ``p``."""
    if p is None:
        return like(torch.empty_like(input, memory_format=torch.contiguous_format), "uniform_")
    return like(result, "bernoulli_", p)


def _coins(noise: Tensor | None, site: Site, input: Tensor, p: Any = None, **_: Any) -> Tensor:
    assert noise is not None
    return (noise < input).to(input.dtype) if site.method == "uniform_" else noise


def _filled(method: str) -> Operation:
    """A method that fills its tensor in place."""

    def site(result: Tensor, *arguments: Any, **named: Any) -> Site | None:
        if any(isinstance(value, Tensor) for value in (*arguments[1:], *named.values())):
            raise Unpackable(f"torch.Tensor.{method} with a tensor of probabilities does not pack; use torch.bernoulli")
        named.pop("generator", None)
        return like(result, method, *arguments[1:], named=tuple(named.items()))

    def use(noise: Tensor | None, site: Site, tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        assert noise is not None
        if torch._C._functorch.is_batchedtensor(noise) and not torch._C._functorch.is_batchedtensor(tensor):
            raise Unpackable(
                f"torch.Tensor.{method} fills a tensor that all trials share; torch.rand_like or torch.randn_like of a "
                "tensor that depends on the weights would pack"
            )
        return tensor.copy_(noise)

    return Operation(_own_generator, site, use)


_FILLERS = ("uniform_", "normal_", "bernoulli_", "exponential_", "random_", "log_normal_", "cauchy_", "geometric_")

OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    F.dropout: Operation(_eval, _dropout_site, _dropout),
    F.dropout1d: Operation(_eval, _maps(3), _dropout),
    F.dropout2d: Operation(_eval, _maps(2), _dropout),
    F.dropout3d: Operation(_eval, _maps(5), _dropout),
    F.alpha_dropout: Operation(_eval_unless_told, _alpha_site, _alpha),
    F.feature_alpha_dropout: Operation(_eval_unless_told, _maps(2, scaled=False), _alpha),
    F.scaled_dot_product_attention: Operation(_never, _attention_site, _attention),
    torch.rand: _made("uniform_"),
    torch.rand_like: _made("uniform_"),
    torch.randn: _made("normal_"),
    torch.randn_like: _made("normal_"),
    torch.randint: _integers(0),
    torch.randint_like: _integers(1),
    torch.bernoulli: Operation(_own_generator, _coins_site, _coins),
    Tensor.bernoulli: Operation(_own_generator, _coins_site, _coins),
    **{getattr(Tensor, method): _filled(method) for method in _FILLERS},
}

"""How much arithmetic runs, counted from the shapes of the products of matrices: the one count of dlrun's own.

Multiply-adds are those of convolutions, matrix products and attention, not of activations, normalisations or pooling.
They equal half of what torch's own flop counter finds, which cannot see into a fused recurrent layer and is slow to
import; ``dlrun.profiling.flops`` uses that one where it counts backward passes, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Operations:
    """Of one forward pass.

    Attributes:
        operations: floating-point operations of all matrix products, a multiplication and an addition being two.
        products: how many matrix products (convolutions, attention) there are.
    """

    operations: int
    products: int


def count_operations(model: nn.Module, inputs: Tensor) -> Operations:
    """What one forward pass on ``inputs`` (B, ...) takes; the network is run once, without gradients."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Products() as found:
        model(inputs)
    return Operations(2 * found.multiply_adds, found.products)


class Products(TorchDispatchMode):
    """Counts what is multiplied under it.

    Attributes:
        multiply_adds: of all products.
        products: how many there were; a fused recurrent layer is one for all its inputs and one for each time step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = self.products = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip the compiler, torch would import it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it multiplies."""
        out = func(*args, **(kwargs or {}))
        count = COUNTS.get(func.overloadpacket)
        if count is not None:
            self.multiply_adds += count(out, *args)
            self.products += 1 + (len(args[0]) if func.overloadpacket is _ATEN.mkldnn_rnn_layer else 0)
        return out


def _product(out: Tensor, a: Tensor, *_: Any) -> int:
    return out.numel() * a.shape[-1]


def _sum_with_product(out: Tensor, _: Tensor, a: Tensor, *__: Any) -> int:
    return out.numel() * a.shape[-1]


def _convolution(
    out: Tensor, x: Tensor, w: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *_: Any
) -> int:
    # w: (to, from, k...), transposed (from, to, k...)
    return (x if transposed else out).numel() * (w.numel() // w.shape[0])


def _attention(_: Any, q: Tensor, k: Tensor, v: Tensor, *__: Any) -> int:
    # q: (B, H, T, E), k: (B, H, S, E), v: (B, H, S, V)
    return math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _recurrent_layer(_: Any, x: Tensor, from_input: Tensor, from_hidden: Tensor, *__: Any) -> int:
    return x.shape[0] * x.shape[1] * (from_input.numel() + from_hidden.numel())  # (T, B, I)


_ATEN = torch.ops.aten
COUNTS: dict[Any, Callable[..., int]] = {
    _ATEN.mm: _product,
    _ATEN.bmm: _product,
    _ATEN.addmm: _sum_with_product,
    _ATEN.baddbmm: _sum_with_product,
    _ATEN.convolution: _convolution,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention: _attention,
    _ATEN._scaled_dot_product_efficient_attention: _attention,
    _ATEN._scaled_dot_product_cudnn_attention: _attention,
    _ATEN.mkldnn_rnn_layer: _recurrent_layer,
}

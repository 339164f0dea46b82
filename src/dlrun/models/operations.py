"""How much arithmetic a network's forward pass takes, counted from the shapes of its matrix products."""

from __future__ import annotations

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
    """What one forward pass on ``inputs`` (B, ...) takes; the network is run once, without gradients.

    By the formulas of ``torch.utils.flop_counter``, which leave out what is no product of matrices: activations,
    normalisations, pooling.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _Counting() as counting:
        model(inputs)
    return Operations(counting.operations, counting.products)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # a third of a second

        self.formulas: dict[Any, Callable[..., int]] = flop_registry
        self.operations = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:
            with self:  # torch has put this mode aside, and what an operation is made of is to be counted
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        out = func(*args, **kwargs)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=out)
            self.products += 1
        return out

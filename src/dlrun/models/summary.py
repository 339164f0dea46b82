"""What a network is made of: shapes, parameters and multiply-adds of every layer.

The network runs once on one example of zeros, and its multiply-adds are counted by ``dlrun.models.operations``. (A run
on torch's ``meta`` device, where tensors have shapes and no numbers, imports a compiler for two seconds.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dlrun.models.operations import Products

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: dotted name inside the network; empty for the network itself.
        kind: the class, such as ``Conv2d``.
        input_shape: shape of its first input without the batch; empty when the layer is never called.
        output_shape: shape of its first output without the batch.
        parameters: trainable and fixed numbers of its own; those it shares with an earlier row count there.
        multiply_adds: for one example, over all calls.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    parameters: int
    multiply_adds: int


def summarize(model: nn.Module, in_shape: Shape, dtype: torch.dtype = torch.float32) -> list[Row]:
    """One row per layer in the order of its first call; the parameters of all rows add up to the network's.

    A layer is a module without submodules, or one with parameters of its own.

    Args:
        model: the network, on any device; it is left as it was.
        in_shape: shape of one example.
        dtype: type of the example's numbers; an integer type for tokens.
    """
    device = next(model.parameters(), torch.empty(0)).device
    training = [module for module in model.modules() if module.training]
    products = Products()
    recorder = _Recorder(model.eval(), lambda: products.multiply_adds)
    try:
        with products:
            model(torch.zeros(1, *in_shape, dtype=dtype, device=device))
        return recorder.finish()
    finally:
        for handle in recorder.handles:
            handle.remove()
        for module in training:
            module.training = True


class _Recorder:
    """Fills the rows from forward hooks while the network runs."""

    def __init__(self, model: nn.Module, counted: Callable[[], int]) -> None:
        self.counted = counted
        self.rows: dict[str, Row] = {}
        self.inner: list[int] = [0]  # what nested layers have already claimed, per open call
        self.starts: list[int] = []
        self.handles: list[RemovableHandle] = []
        self.own: dict[str, int] = {}
        seen: set[int] = set()
        for name, module in model.named_modules():
            direct = [p for p in module.parameters(recurse=False) if id(p) not in seen]
            seen.update(id(p) for p in direct)
            if direct:
                self.own[name] = sum(p.numel() for p in direct)
            if direct or not any(module.children()):
                self.handles.append(module.register_forward_pre_hook(self._before(name, module)))
                self.handles.append(module.register_forward_hook(self._after(name)))

    def _before(self, name: str, module: nn.Module) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            # Entered at the call, so that rows stand in the order in which layers start.
            blank = Row(name, type(module).__name__, _shape(inputs), (), 0, 0)
            self.rows.setdefault(name, blank)
            self.starts.append(self.counted())
            self.inner.append(0)

        return hook

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            spent = self.counted() - self.starts.pop()
            own = spent - self.inner.pop()
            self.inner[-1] += spent
            row = self.rows[name]
            self.rows[name] = replace(row, output_shape=_shape(output), multiply_adds=row.multiply_adds + own)

        return hook

    def finish(self) -> list[Row]:
        """The rows with their parameters; those of a module never called go to the layer around it."""
        for name, number in self.own.items():
            at = name
            while at and at not in self.rows:
                at = at.rpartition(".")[0]
            row = self.rows.get(at) or Row(name, "not called", (), (), 0, 0)
            self.rows[row.name] = replace(row, parameters=row.parameters + number)
        return list(self.rows.values())


def _shape(value: Any) -> Shape:
    """Shape without the batch of the first tensor in a possibly nested value; empty when there is none."""
    if isinstance(value, Tensor):
        return tuple(value.shape[1:])
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return next((shape for shape in map(_shape, items) if shape), ())

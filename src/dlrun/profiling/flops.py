"""What a step computes and keeps: floating-point operations by phase and layer, and bytes.

One step of a copy of the network is taken under torch's own counter (``torch.utils.flop_counter``): products of
matrices, convolutions and attention by their formulas, two operations to a multiply-add; what else ran is named.
Recurrent layers run written out for it, since a fused kernel has no formula; the arithmetic is the same.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dlrun.algorithms import updaters
from dlrun.models.recurrent import write_out
from dlrun.profiling.clock import ROOT, Clock, Key
from dlrun.profiling.phases import Patches, own_phase, patch_algorithm
from dlrun.tasks import Batch

FORWARD = ("", "forward")
MOST_NAMED = 8


@dataclass(frozen=True)
class Work:
    """What one step does, on average over the steps of one turn of the networks.

    Attributes:
        flops: by phase.
        calls: how often a phase came in a step.
        examples: of the batch it was counted on.
        layers: (name, flops) of the forward passes of the network's layers, the largest first.
        uncounted: names of operators without a formula, those that wrote most numbers first; how often per step.
        parameters: numbers that are trained, and those that are not.
        weights: bytes of parameters and buffers.
        gradients: bytes of the gradients.
        optimizer: bytes of the optimizer's state.
        activations: bytes kept from the forward for the backward pass, all networks together.
    """

    flops: dict[Key, int]
    calls: dict[Key, float]
    examples: int
    layers: list[tuple[str, int]]
    uncounted: list[tuple[str, int]]
    parameters: tuple[int, int]
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def per_step(self) -> int:
        """Operations of the model: all but the optimizer's own."""
        return sum(n for (_, name), n in self.flops.items() if name != "optimizer")

    def at(self, calls: dict[Key, float]) -> Work:
        """The work of steps that call the forward pass more or less often, as a line search does."""
        here, there = self.calls.get(FORWARD), calls.get(FORWARD)
        if not here or not there or here == there:
            return self
        times = there / here
        flops = {key: n if key[1] == "optimizer" else round(n * times) for key, n in self.flops.items()}
        return replace(self, flops=flops, calls=calls)


class _Total:
    """The meter of a clock that counts operations instead of seconds."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.stamp = counter.get_total_flops

    def amount(self, first: Any, last: Any) -> float:
        return float(last - first)

    def settle(self) -> None:
        """Operations are counted as they are called."""


def count(model: nn.Module, algorithm_of: Callable[[nn.Module], Any], batch: Batch) -> Work:
    """Take a few steps of a copy of the network on a batch and count.

    Args:
        model: as it begins its training; it is left alone.
        algorithm_of: builds the algorithm of a network.
        batch: on the network's device.
    """
    twin = copy.deepcopy(model)
    twin.train()
    write_out(twin)
    algorithm = algorithm_of(twin)
    kept = _Kept([*twin.parameters(), *twin.buffers(), *batch])
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        algorithm.step(batch)
    steps = getattr(algorithm, "critic_steps", 1)  # a whole turn of the networks
    executed, counter, patches = _Executed(), FlopCounterMode(display=False), Patches()
    counter.mod_tracker = _NoTracker()  # type: ignore[assignment]
    clock, layers = Clock(_Total(counter)), Clock(_Total(counter))
    with executed, counter, _by_layer(twin, layers):
        clock.start()
        layers.start()
        patch_algorithm(patches, clock, algorithm)
        step = clock.spanned(own_phase(algorithm), algorithm.step)
        for _ in range(steps):
            step(batch)
        patches.undo()
        block, forward = clock.stop(steps), layers.stop(steps).amounts
    optimizers = [updater.optimizer for updater in updaters(algorithm).values()]
    trained = sum(p.numel() for p in twin.parameters() if p.requires_grad)
    return Work(
        flops={key: round(amount / steps) for key, amount in block.amounts.items() if amount},
        calls={key: calls / steps for key, calls in block.spans.items()},
        examples=len(batch[0]),
        layers=sorted(
            ((n, round(f / steps)) for (_, n), f in forward.items() if f and n != ROOT[1]), key=lambda x: -x[1]
        ),
        uncounted=executed.without_formula(steps),
        parameters=(trained, sum(p.numel() for p in twin.parameters()) - trained),
        weights=_bytes([*twin.parameters(), *twin.buffers()]),
        gradients=_bytes([p for p in twin.parameters() if p.requires_grad]),
        optimizer=_bytes(_tensors([optimizer.state for optimizer in optimizers])),
        activations=kept.bytes,
    )


@contextmanager
def _by_layer(model: nn.Module, clock: Clock) -> Iterator[None]:
    """Each layer's forward pass as a phase, without the layers inside it."""
    handles = []
    for name, module in model.named_modules():
        key = ("", name or type(module).__name__)
        handles += [
            module.register_forward_pre_hook(lambda *_, key=key: clock.enter(key)),
            module.register_forward_hook(lambda *_: clock.leave()),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _NoTracker:
    """In the place of torch's own tracker of layers, which cannot follow a gradient of a gradient."""

    parents = ("Global",)

    def __enter__(self) -> None:
        """Nothing to watch."""

    def __exit__(self, *_: object) -> None:
        """Nothing was watched."""


class _Kept:
    """Bytes of the storages that autograd keeps, each once, without those that are there anyway."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


class _Executed(TorchDispatchMode):
    """Which operators ran, and how many numbers each wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.numbers: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket not in flop_registry and not func.is_view:
            name = func._overloadpacket.__name__
            self.calls[name] += 1
            written = sum(tensor.numel() for tensor in _tensors([out]))
            self.numbers[name] += written or sum(t.numel() for t in _tensors(list(args[:1])))  # in place, on a list
        return out

    def without_formula(self, steps: int) -> list[tuple[str, int]]:
        """(name, calls per step), without what moves no numbers."""
        return [(name, -(-self.calls[name] // steps)) for name, n in self.numbers.most_common() if n][:MOST_NAMED]


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

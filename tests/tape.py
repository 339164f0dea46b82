"""A recorder for the CPU that does what a CUDA graph does: every kernel of some work again, on the same tensors.

Python runs once, while recording, and whatever it decided is frozen. The work is not done by recording it: tensors and
random streams are put back. Random operations draw anew at each replay. What would wait for the device, or copy from
the host, raises, as it would during a capture.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

T = TypeVar("T")
aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim,
    aten.repeat_interleave, aten.bincount, aten.lift_fresh,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
ON_THE_HOST = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.__int__}
# Operations that change their running statistics without saying so in their schema.
SILENT = {aten.native_batch_norm: (3, 4), aten.cudnn_batch_norm: (3, 4)}


@dataclass
class Entry:
    """One operation: what it was called with, and the tensors that its results go into."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]
    gradients: bool

    def play(self) -> None:
        with torch.set_grad_enabled(self.gradients):  # a kernel may keep more for a backward pass
            found = self.func(*self.args, **self.kwargs)
        for kept, new in zip(self.results, _tensors(found), strict=True):
            if kept.data_ptr() != new.data_ptr():
                kept.copy_(new)


class _Host(TorchFunctionMode):
    """Refuses to give values to Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ON_THE_HOST:
            raise RuntimeError(f"called a synchronizing operation: {func.__name__}")
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == "cpu":  # a number that is meant to stay on the host
            with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class _Watch(TorchDispatchMode):
    """Sees every kernel; records it when there is a list to record to."""

    def __init__(self, entries: list[Entry] | None = None) -> None:
        super().__init__()
        self.entries = entries
        self.alive: list[Tensor] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in WAITING or _picks_by_truth(func, args):
            raise RuntimeError(f"called a synchronizing operation: {func}")
        if self.entries is None:
            return func(*args, **kwargs)
        changed = self._changed(func, args, kwargs)
        for tensor in changed:
            self._keep(tensor)
        kept_args, kept_kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))  # as they are shaped now
        found = func(*args, **kwargs)
        results = [tensor.detach() for tensor in _tensors(found)]
        self.alive += results
        given = {_place(t) for t in _tensors((args, kwargs))}
        self.made |= {_place(t) for t in results} - given
        views = bool(results) and not changed and all(_place(t) in given for t in results)
        if not views and torch.Tag.inplace_view not in func.tags:  # what only looks at memory has nothing to do again
            self.entries.append(Entry(func, kept_args, kept_kwargs, results, torch.is_grad_enabled()))
        return found

    def _changed(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        found = [args[i] for i in SILENT.get(func.overloadpacket, ()) if isinstance(args[i], Tensor)]
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                found += _tensors(value)
        return found

    def _keep(self, tensor: Tensor) -> None:
        """Remember what a storage held before the recording changes it."""
        place = _place(tensor)
        if place not in self.made and place not in self.before:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self.before[place] = whole, whole.clone()

    def put_back(self) -> None:
        for whole, held in self.before.values():
            whole.copy_(held)


class Tape:
    """See ``dlrun.engines.recording.Recorder``. Counts what was recorded and replayed."""

    def __init__(self) -> None:
        self.rehearsals = self.captures = self.replays = self.faults = 0

    def rehearse(self, work: Callable[[], T]) -> T:
        self.rehearsals += 1
        with _Host(), _Watch():
            return work()

    def capture(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        self.captures += 1
        entries: list[Entry] = []
        watch, random = _Watch(entries), torch.get_rng_state()
        try:
            with _Host(), watch:
                found = work()
        finally:
            watch.put_back()
            torch.set_rng_state(random)

        def replay() -> None:
            self.replays += 1
            with torch._C._AutoDispatchBelowAutograd():
                for entry in entries:
                    entry.play()

        return replay, found

    def wait(self) -> None:
        time.sleep(0)

    def pace(self) -> None:
        """Nothing is queued."""


def _picks_by_truth(func: Any, args: Any) -> bool:
    """Whether it indexes by a mask, whose count decides the shape; filling under a mask with one value does not."""
    if func.overloadpacket not in INDEXING or (len(args) > 2 and args[2].numel() == 1):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

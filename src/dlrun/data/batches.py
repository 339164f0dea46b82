"""Batches of a part of a data set: the training order, and the order of the files for evaluation.

A part held as tensors lives on the device (or, when it is too large for it, in main memory) and is indexed in whole
batches; a ``Dataset`` streams through a ``DataLoader``. Either way the order is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sized
from typing import Literal, cast

import torch
from torch import Tensor
from torch.utils.data import Subset

from dlrun.data import Examples, Part, Preprocess
from dlrun.data.hashing import mix
from dlrun.data.streaming import Streamed, batch_sizes
from dlrun.data.windows import Windows
from dlrun.errors import ConfigError

Batch = tuple[Tensor, Tensor]
AugmentCall = Callable[[Tensor, int, Tensor], Tensor]

HOST_LIMIT = 2 * 2**30
DEVICE_SHARE = 0.25
CHUNK_BYTES = 64 * 2**20
SCATTER, GATHER, SHIFT = 0, 1, 2  # streams of numbers from one (seed, epoch): order, augmentation, place of windows


class Batches:
    """Batches (inputs (B, *input_shape) float32, targets (B,) or (B, D)) of one part, on ``device``.

    ``augment(inputs, key, indices)`` is applied to training batches alone, after preprocessing; key stands for (seed,
    epoch). ``resident``: ``auto`` puts tensors on the device when they take up to a quarter of its free memory, true
    always does, false leaves them in main memory. Tensors on the device are preprocessed once when the float32 copy is
    that small too (on the CPU: up to 2 GiB), else batch by batch, which gives the same bits. ``workers`` are the
    processes that read a ``Dataset``. With ``consecutive`` row b of a batch continues row b of the batch before it.

    Raises:
        ConfigError: ``batch_size`` is below 1, or ``resident`` is true for a part that streams from files.
    """

    def __init__(
        self,
        part: Part,
        *,
        preprocess: Preprocess,
        batch_size: int,
        device: torch.device,
        seed: int,
        augment: AugmentCall | None = None,
        workers: int = 0,
        resident: bool | Literal["auto"] = "auto",
        consecutive: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} examples cannot be made: trainer.batch_size is at least 1.")
        self.size = len(cast(Sized, part))
        self.batch_size = batch_size = 1 if _singly(part) else batch_size
        self.seed = seed
        self.augment = augment
        self.consecutive = consecutive
        if consecutive:
            self.size -= self.size % batch_size  # every row has a successor in every batch
        self._source: _Held | _Cut | Streamed
        if isinstance(part, Windows):
            self._source = _Cut(part, device, consecutive)
        elif isinstance(part, Examples):
            self._source = _Held(part, preprocess, device, resident)
        elif resident is True:
            raise ConfigError(
                "data that streams from files cannot be resident: raise data.memory so that it is read whole."
            )
        else:
            self._source = Streamed(part, preprocess, device, workers)

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller, or one larger."""
        return len(batch_sizes(self.size, self.batch_size))

    def seen(self, steps: int) -> int:
        """Examples that so many steps have taken."""
        epochs, batches = divmod(steps, len(self))
        return epochs * self.size + min(batches * self.batch_size, self.size)

    @property
    def placement(self) -> str:
        """Where the examples live, in words for the user."""
        return self._source.placement

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the shuffled batches of one epoch, without the first ``start``, for which nothing is read.

        When one batch covers the whole part the order does not matter: the tensors are given as they lie.
        """
        if not self.size:
            return iter(())
        order = self.order(epoch)
        batches = self._source.batches(order, self.batch_size, start, mix(self.seed, epoch, SCATTER))
        return batches if self.augment is None else self._augmented(batches, order, epoch, start)

    def order(self, epoch: int) -> Tensor:
        """The places (N,) of the examples in one epoch, one batch after another; on the CPU."""
        if self.consecutive:
            return torch.arange(self.size).reshape(self.batch_size, -1).T.flatten()
        if self.batch_size >= self.size:
            return torch.arange(self.size)
        key = mix(self.seed, epoch, SCATTER)
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(key))

    @property
    def held(self) -> Batch | None:
        """The examples of the whole part, where batches are taken from them as they lie; else None."""
        source = self._source
        ready = isinstance(source, _Held) and source.finish is None and self.augment is None
        return (source.inputs, source.targets) if ready and isinstance(source, _Held) else None

    def under(self, seed: int) -> Batches:
        """The same examples, not copied, in the training order of another seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def in_order(self) -> Iterator[Batch]:
        """Yield all batches in the order of the data, without augmentation."""
        return self._source.in_order(self.batch_size)

    def _augmented(self, batches: Iterator[Batch], order: Tensor, epoch: int, start: int) -> Iterator[Batch]:
        augment = cast(AugmentCall, self.augment)
        key = mix(self.seed, epoch, GATHER)
        order = order.to(self._source.device)
        for rows, (inputs, targets) in zip(
            order.split(batch_sizes(len(order), self.batch_size))[start:], batches, strict=True
        ):
            yield augment(inputs, key, rows), targets


class _Held:
    """Examples held as tensors, on the device or in main memory."""

    def __init__(self, part: Examples, preprocess: Preprocess, device: torch.device, resident: bool | str) -> None:
        self.device = device
        on_device = _bytes(part.inputs) <= _room(device) if resident == "auto" else bool(resident)
        home = device if on_device else torch.device("cpu")
        self.inputs, self.targets = part.inputs.to(home), part.targets.to(home)
        self._preprocess = preprocess
        # From main memory the raw values travel, often a quarter of the bytes, and the device preprocesses them.
        self.finish: Callable[[Tensor], Tensor] | None = self._move_and_preprocess
        if len(part) and home == device:
            self._prepare(_room(home))
        where = "on the device" if on_device and device.type != "cpu" else "in memory"
        self.placement = where if self.finish is None else f"{where}, preprocessed batch by batch"

    def _prepare(self, limit: float) -> None:
        """Preprocess everything now where the result is small enough, else leave it to each batch."""
        first = self._preprocess(self.inputs[:1])
        ready_as_loaded = first.dtype == self.inputs.dtype and first.data_ptr() == self.inputs.data_ptr()  # a table
        if not ready_as_loaded and _bytes(first) * len(self.inputs) > limit:
            return
        self.finish = None
        if ready_as_loaded:
            return
        raw, self.inputs = self.inputs, first.new_empty((len(self.inputs), *first.shape[1:]))
        rows = max(1, CHUNK_BYTES // _bytes(first))
        for source, ready in zip(raw.split(rows), self.inputs.split(rows), strict=True):
            ready.copy_(self._preprocess(source))

    def _move_and_preprocess(self, inputs: Tensor) -> Tensor:
        return self._preprocess(inputs.to(self.device, non_blocking=True))

    def batches(self, order: Tensor, batch_size: int, start: int, key: int) -> Iterator[Batch]:
        if batch_size >= len(order):
            return iter([] if start else list(self.in_order(batch_size)))
        rows = order.to(self.inputs.device).split(batch_sizes(len(order), batch_size))[start:]
        inputs, targets = self.inputs, self.targets
        pairs = ((inputs.index_select(0, index), targets.index_select(0, index)) for index in rows)
        return self._finished(pairs)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        if not len(self.targets):
            return iter(())
        return self._finished(zip(self.inputs.split(batch_size), self.targets.split(batch_size), strict=True))

    def _finished(self, pairs: Iterator[Batch]) -> Iterator[Batch]:
        if self.finish is None:
            return pairs
        finish, device = self.finish, self.device
        return ((finish(inputs), targets.to(device, non_blocking=True)) for inputs, targets in pairs)


class _Cut:
    """Windows of one sequence, which lies on the device."""

    def __init__(self, part: Windows, device: torch.device, consecutive: bool) -> None:
        self.device, self.part, self.consecutive = device, part.to(device), consecutive
        self.placement = "in memory" if device.type == "cpu" else "on the device"

    def batches(self, order: Tensor, batch_size: int, start: int, key: int) -> Iterator[Batch]:
        shift = mix(key, SHIFT) % (self.part.slack + 1)
        for rows in order.to(self.device).split(batch_sizes(len(order), batch_size))[start:]:
            yield self.part.gather(rows, shift)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All windows; where batches continue one another, the last row's sequence may end a few batches early."""
        rows = torch.arange(len(self.part), device=self.device)
        if not self.consecutive:
            return (self.part.gather(some) for some in rows.split(batch_size))
        batches = -(-len(rows) // batch_size)
        return (self.part.gather(rows[first::batches]) for first in range(batches))


def _singly(part: Part) -> bool:
    """Whether the items differ in shape, also of a part of the part."""
    inner = part.dataset if isinstance(part, Subset) else part
    return bool(getattr(inner, "singly", False))


def _room(device: torch.device) -> float:
    """Bytes that one part may take on a device."""
    if device.type == "cuda":
        return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return HOST_LIMIT


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

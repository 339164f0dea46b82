"""Batches of a part of a data set: the training order, and the order of the files for evaluation.

A part held as tensors lives on the device (or, when it is too large for it, in main memory) and is indexed in whole
batches; a ``Dataset`` streams through a ``DataLoader``. Either way the order is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sized
from typing import Literal, cast

import torch
from torch import Tensor
from torch.utils.data import Subset

from dlrun.data import Examples, Part, Preprocess
from dlrun.data.augment import Augment, EpochAugment
from dlrun.data.hashing import mix
from dlrun.data.held import Cut, Held
from dlrun.data.sharing import Keep, as_it_lies
from dlrun.data.streaming import WHOLE, Streamed, Waiting, batch_sizes
from dlrun.data.windows import Windows
from dlrun.errors import ConfigError

Batch = tuple[Tensor, Tensor]

SCATTER, GATHER = 0, 1  # streams of numbers from one (seed, epoch): order, augmentation; see also held.SHIFT


class Batches:
    """Batches (inputs (B, *input_shape) float32, targets (B,) or (B, D)) of one part, on ``device``.

    ``augment`` is applied to training batches alone, after preprocessing. ``resident``: ``auto`` puts tensors on the
    device when they take up to a quarter of its free memory, true always does, false leaves them in main memory.
    Tensors on the device are preprocessed once when the float32 copy is that small too (on the CPU: up to 2 GiB), else
    batch by batch, which gives the same bits. ``workers`` are the processes that read a ``Dataset``. With
    ``consecutive`` row b of a batch continues row b of the batch before it. Among several processes ``epoch`` yields
    the part ``shard`` (number, of how many) of each batch; all else is whole, and ``keep`` may replace what is held by
    one copy for all of them.

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
        augment: Augment | None = None,
        workers: int = 0,
        resident: bool | Literal["auto"] = "auto",
        consecutive: bool = False,
        shard: tuple[int, int] = WHOLE,
        keep: Keep = as_it_lies,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} examples cannot be made: trainer.batch_size is at least 1.")
        self.size = len(cast(Sized, part))
        self.batch_size = batch_size = 1 if _singly(part) else batch_size
        self.seed = seed
        self.augment = augment
        self.consecutive = consecutive
        self.shard = shard
        if consecutive:
            self.size -= self.size % batch_size  # every row has a successor in every batch
        self._length = len(batch_sizes(self.size, batch_size))
        self._source: Held | Cut | Streamed
        if isinstance(part, Windows):
            self._source = Cut(part, device, consecutive)
        elif isinstance(part, Examples):
            self._source = Held(part, preprocess, device, resident, keep)
        elif resident is True:
            raise ConfigError(
                "data that streams from files cannot be resident: raise data.memory so that it is read whole."
            )
        else:
            self._source = Streamed(part, preprocess, device, workers)
        self._waiting = Waiting() if isinstance(self._source, Streamed) else None

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller, or one larger."""
        return self._length

    def seen(self, steps: int) -> int:
        """Examples that so many steps have taken."""
        epochs, batches = divmod(steps, len(self))
        return epochs * self.size + min(batches * self.batch_size, self.size)

    @property
    def placement(self) -> str:
        """Where the examples live, in words for the user."""
        return self._source.placement

    @property
    def workers(self) -> int | None:
        """Processes that read the examples while training goes on; None where they are held."""
        return self._source.workers if isinstance(self._source, Streamed) else None

    def close(self) -> None:
        """End the processes that wait for the next epoch; the examples stay, and another epoch has new ones."""
        if isinstance(self._source, Streamed):
            self._source.close()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the shuffled batches of one epoch, without the first ``start``, for which nothing is read.

        When one batch covers the whole part the order does not matter: the tensors are given as they lie.
        """
        if not self.size:
            return iter(())
        order = self.order(epoch)
        key = mix(self.seed, epoch, SCATTER)
        augment = None if self.augment is None else EpochAugment(self.augment, mix(self.seed, epoch, GATHER))
        batches = self._source.batches(order, self.batch_size, start, key, self.shard, augment)
        return batches if self._waiting is None else self._waiting.timed(batches)

    def waited(self) -> float | None:
        """Seconds that training waited for its batches since this was last asked; None where they are not streamed."""
        return None if self._waiting is None else self._waiting.taken()

    def order(self, epoch: int) -> Tensor:
        """The places (N,) of the examples in one epoch, one batch after another; on the CPU."""
        if self.consecutive:
            return torch.arange(self.size).reshape(self.batch_size, -1).T.flatten()
        if self.batch_size >= self.size:
            return torch.arange(self.size)
        key = mix(self.seed, epoch, SCATTER)
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(key))

    @property
    def resident(self) -> bool:
        """Whether the examples lie on the device that computes, so that ``gather`` can make batches there."""
        return not isinstance(self._source, Streamed) and self._source.resident and self.shard == WHOLE

    def keys(self, epoch: int) -> tuple[int, int]:
        """What an epoch's batches depend on beside its order: the key of the augmentation, the shift of windows."""
        key = mix(self.seed, epoch, SCATTER)
        shift = self._source.shift(key) if isinstance(self._source, Cut) else 0
        return mix(self.seed, epoch, GATHER), shift

    def gather(self, rows: Tensor, keys: Tensor) -> Batch:
        """The batch of these places (B,) int64 of an epoch's order, as ``epoch`` makes it of them, bit for bit.

        ``keys`` (2,) int64 are the epoch's; both tensors lie on the device, and nothing waits for it. For resident
        examples alone.
        """
        source = self._source
        if isinstance(source, Cut):
            return source.part.gather(rows, keys[1])
        held = cast(Held, source)
        if self.augment is None:
            return held.gather(rows if self.batch_size < self.size else None)
        draws = self.augment.draws(keys[0], rows)
        if held.finish is None:
            return self.augment(held.inputs, draws, rows), held.targets.index_select(0, rows)
        inputs, targets = held.gather(rows)
        return self.augment(inputs, draws), targets

    @property
    def held(self) -> Batch | None:
        """The examples of the whole part, where batches are taken from them as they lie; else None."""
        source = self._source
        ready = isinstance(source, Held) and source.finish is None and self.augment is None
        return (source.inputs, source.targets) if ready and isinstance(source, Held) else None

    def under(self, seed: int) -> Batches:
        """The same examples, not copied, in the training order of another seed."""
        other = copy.copy(self)
        other.seed = seed
        other._waiting = None if self._waiting is None else Waiting()
        return other

    def in_order(self) -> Iterator[Batch]:
        """Yield all batches in the order of the data, without augmentation."""
        return self._source.in_order(self.batch_size)


def _singly(part: Part) -> bool:
    """Whether the items differ in shape, also of a part of the part."""
    inner = part.dataset if isinstance(part, Subset) else part
    return bool(getattr(inner, "singly", False))

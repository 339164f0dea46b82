"""What a recorded step reads: its batches, in tensors that stay where they are and are filled before each replay.

Examples that lie on the device are not moved: a recorded step is given their row numbers and gathers the batch itself.
A batch that streams is copied into the tensors that the recording knows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from dlrun.data.batches import Batches
from dlrun.data.streaming import batch_sizes
from dlrun.tasks import Batch

Slot = tuple[Tensor, ...]  # the tensors of one form of batch


class Feed(Protocol):
    """Batches in the order of training, for a number of steps at once."""

    def coming(self, step: int) -> tuple[Hashable, int]:
        """The form of the batch that a step takes, and of how many in a row it is, the step's own included."""
        ...

    def slot(self, form: Hashable, steps: int) -> Slot:
        """Tensors for the batches of so many steps."""
        ...

    def load(self, slot: Slot, step: int) -> None:
        """Fill the tensors with what the steps from this one on take."""
        ...

    def batch(self, slot: Slot, place: int) -> Batch:
        """The batch of one of the steps; reads nothing but tensors that stay."""
        ...


class Gathered:
    """Batches gathered on the device from examples that lie there.

    A form is the number of examples; a slot holds row numbers (steps, B) and the two keys of an epoch (2,), int64.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        self.sizes = batch_sizes(batches.size, batches.batch_size)
        self.alike = _runs(self.sizes)
        self.starts = [sum(self.sizes[:place]) for place in range(len(self.sizes))]
        self.keys = torch.zeros(2, dtype=torch.int64, device=device)
        self.order = self.keys.new_empty(0)
        self.epoch = -1

    def coming(self, step: int) -> tuple[Hashable, int]:
        """The batch's size, and how many of this size are left in the epoch without another between them."""
        place = step % len(self.sizes)
        return self.sizes[place], self.alike[place]

    def slot(self, form: Hashable, steps: int) -> Slot:
        """Row numbers, to be filled."""
        return (self.keys.new_empty((steps, form)),)  # type: ignore[arg-type]

    def load(self, slot: Slot, step: int) -> None:
        """Copy the steps' part of the epoch's order."""
        epoch, place = divmod(step, len(self.sizes))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.batches.order(epoch).to(self.device)
            for at, key in enumerate(self.batches.keys(epoch)):
                self.keys[at].fill_(key)
        (rows,) = slot
        start = self.starts[place]
        rows.copy_(self.order[start : start + rows.numel()].view_as(rows))

    def batch(self, slot: Slot, place: int) -> Batch:
        """One look-up, with preprocessing and augmentation after it."""
        return self.batches.gather(slot[0][place], self.keys)


class Handed:
    """Batches that come from elsewhere, one at a time; a form is what the tensors of a batch look like."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self.next: Batch | None = None

    def coming(self, step: int) -> tuple[Hashable, int]:
        """The next batch is fetched, if it is not here yet."""
        if self.next is None:
            self.next = next(self.batches)
        return tuple((tensor.shape, tensor.dtype) for tensor in self.next), 1

    def slot(self, form: Hashable, steps: int) -> Slot:
        """Memory for one batch of the form of the next one."""
        assert self.next is not None
        return tuple(torch.empty_like(tensor) for tensor in self.next)

    def load(self, slot: Slot, step: int) -> None:
        """Copy the batch."""
        assert self.next is not None
        for mine, given in zip(slot, self.next, strict=True):
            mine.copy_(given, non_blocking=True)
        self.next = None

    def batch(self, slot: Slot, place: int) -> Batch:
        """The tensors themselves."""
        inputs, targets = slot
        return inputs, targets


def _runs(sizes: list[int]) -> list[int]:
    """For each batch of an epoch how many of its size follow in a row, itself included."""
    runs: list[int] = []
    for place in reversed(range(len(sizes))):
        follows = runs and sizes[place + 1] == sizes[place]
        runs.append(runs[-1] + 1 if follows else 1)
    return runs[::-1]


class Inputs:
    """The tensors that some recorded steps read: their batches' and their rates, (steps, groups) float32."""

    def __init__(self, slot: Slot, count: int, groups: int) -> None:
        self.slot, self.count = slot, count
        self.rates = torch.zeros(count, groups, device=slot[0].device)
        self._filled: list[list[float]] = []

    def set_rates(self, rates: list[list[float]]) -> None:
        """Write them, when they are not there yet. From pageable memory the driver takes a copy at once."""
        if rates != self._filled:
            self.rates.copy_(torch.tensor(rates), non_blocking=True)
            self._filled = rates

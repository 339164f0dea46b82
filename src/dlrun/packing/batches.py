"""The batches of all lanes: one for all where they have the same order, else each lane's own side by side.

Shape legend: K lanes, S orders, N examples, B of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dlrun.data.batches import Batches
from dlrun.data.streaming import batch_sizes
from dlrun.packing.gradient import PackedBatch
from dlrun.tasks import Batch


def packed_batches(lanes: Sequence[Batches], step: int) -> Iterator[PackedBatch]:
    """Batches without end, from the place where runs of ``step`` steps stand.

    Lanes of one seed have one order, which is read once. A batch's tensors may be overwritten by the next one's.
    """
    seeds = list(dict.fromkeys(lane.seed for lane in lanes))
    orders = [next(lane for lane in lanes if lane.seed == seed) for seed in seeds]
    if len(seeds) == 1:
        for inputs, targets in _endless(orders[0], step):
            yield PackedBatch(inputs, targets, shared=True)
    places = torch.tensor([seeds.index(lane.seed) for lane in lanes])
    held = _held(orders)
    found = _stacked(orders, places, step) if held is None else _gathered(held, orders, places, step)
    for inputs, targets in found:
        yield PackedBatch(inputs, targets, shared=False)


def _stacked(orders: Sequence[Batches], places: Tensor, step: int) -> Iterator[Batch]:
    """Each order's batches as it makes them, put side by side."""
    own = len(orders) == len(places)
    for found in zip(*(_endless(order, step) for order in orders), strict=True):
        inputs, targets = (torch.stack(tensors) for tensors in zip(*found, strict=True))
        if not own:
            rows = places.to(inputs.device)
            inputs, targets = inputs.index_select(0, rows), targets.index_select(0, rows)
        yield inputs, targets


def _held(orders: Sequence[Batches]) -> Batch | None:
    """The examples that all orders take their batches from as they lie, or None."""
    first = orders[0]
    held = first.held
    if held is None or first.batch_size >= first.size:
        return None
    alike = all(other.batch_size == first.batch_size and _same(other.held, held) for other in orders)
    return held if alike else None


def _same(some: Batch | None, others: Batch) -> bool:
    return some is not None and all(a is b for a, b in zip(some, others, strict=True))


def _gathered(held: Batch, orders: Sequence[Batches], places: Tensor, step: int) -> Iterator[Batch]:
    """One look-up for all lanes, into memory that is used again: fresh memory costs more than what is copied to it."""
    first, memory = orders[0], dict[int, Batch]()
    sizes = batch_sizes(first.size, first.batch_size)
    epoch, start = divmod(step, len(sizes))
    while True:
        rows = torch.stack([order.order(epoch) for order in orders])[places].to(held[0].device)  # (K, N)
        for chosen in rows.split(sizes, 1)[start:]:
            size = chosen.shape[1]
            if size not in memory:
                inputs, targets = (examples.new_empty((*chosen.shape, *examples.shape[1:])) for examples in held)
                memory[size] = inputs, targets
            found = memory[size]
            index = chosen.flatten()
            for examples, batch in zip(held, found, strict=True):
                torch.index_select(examples, 0, index, out=batch.flatten(0, 1))
            yield found
        epoch, start = epoch + 1, 0


def _endless(batches: Batches, step: int) -> Iterator[Batch]:
    epoch, start = divmod(step, len(batches))
    while True:
        yield from batches.epoch(epoch, start)
        epoch, start = epoch + 1, 0

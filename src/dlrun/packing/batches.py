"""The batches of all lanes: one for all where they have the same order, else each lane's own side by side.

Shape legend: K lanes, S orders, N examples, B of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dlrun.data.batches import SCATTER, Batches, _Held, batch_sizes
from dlrun.data.hashing import mix
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
    source = first._source
    if not isinstance(source, _Held) or source.finish is not None or first.augment is not None:
        return None
    alike = all(order._source is source and order.batch_size == first.batch_size for order in orders)
    return (source.inputs, source.targets) if alike and first.batch_size < first.size else None


def _gathered(held: Batch, orders: Sequence[Batches], places: Tensor, step: int) -> Iterator[Batch]:
    """One look-up for all lanes, into memory that is used again: fresh memory costs more than what is copied to it."""
    first, memory = orders[0], {}
    sizes = batch_sizes(first.size, first.batch_size)
    epoch, start = divmod(step, len(sizes))
    while True:
        rows = torch.stack([_order(order, epoch) for order in orders])[places].to(held[0].device)  # (K, N)
        for chosen in rows.split(sizes, 1)[start:]:
            if chosen.shape[1] not in memory:
                memory[chosen.shape[1]] = tuple(t.new_empty((*chosen.shape, *t.shape[1:])) for t in held)
            found = memory[chosen.shape[1]]
            index = chosen.flatten()
            for examples, batch in zip(held, found, strict=True):
                torch.index_select(examples, 0, index, out=batch.flatten(0, 1))
            yield found
        epoch, start = epoch + 1, 0


def _order(batches: Batches, epoch: int) -> Tensor:
    """The order of an epoch, as ``Batches.epoch`` shuffles it."""
    generator = torch.Generator().manual_seed(mix(batches.seed, epoch, SCATTER))
    return torch.randperm(batches.size, generator=generator)


def _endless(batches: Batches, step: int) -> Iterator[Batch]:
    epoch, start = divmod(step, len(batches))
    while True:
        yield from batches.epoch(epoch, start)
        epoch, start = epoch + 1, 0

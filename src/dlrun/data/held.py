"""Examples held as tensors, and windows of a sequence: sources whose batches are looked up, whole, by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dlrun.data import Examples, Preprocess
from dlrun.data.augment import EpochAugment, with_margin
from dlrun.data.hashing import mix
from dlrun.data.moving import InPlace, mover, pinned, staged
from dlrun.data.sharing import Keep
from dlrun.data.streaming import WHOLE, split
from dlrun.data.windows import Windows

Batch = tuple[Tensor, Tensor]

HOST_LIMIT = 2 * 2**30
DEVICE_SHARE = 0.25
CHUNK_BYTES = 64 * 2**20
TOGETHER_BYTES = 3 * 2**20
MOST_TOGETHER = 64
ALIGNED = 256  # bytes: as far as torch looks at an address when it chooses a kernel; on the CPU it is 64
DRAWN_AT_ONCE = 2**14  # examples
SHIFT = 2  # the stream of numbers of an epoch that places windows


class Held:
    """Examples held as tensors, on the device or in main memory; ``dlrun.data.batches`` says which, and when ready."""

    def __init__(
        self, part: Examples, preprocess: Preprocess, device: torch.device, resident: bool | str, keep: Keep
    ) -> None:
        self.device = device
        on_device = _bytes(part.inputs) <= _room(device) if resident == "auto" else bool(resident)
        home = device if on_device else torch.device("cpu")
        self.inputs, self.targets = (_aligned(tensor.to(home)) for tensor in (part.inputs, part.targets))
        self._preprocess, self._keep = preprocess, keep
        self._example_bytes = 4 * part.inputs[:1].numel() + _bytes(part.targets[:1])  # inputs as float32
        # From main memory the raw values travel, often a quarter of the bytes, and the device preprocesses them.
        self.finish: Callable[[Batch], Batch] | None = (
            InPlace(preprocess, device) if on_device else mover(preprocess, device)
        )
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
        raw, self.inputs = self.inputs, with_margin((len(self.inputs), *first.shape[1:]), first)
        rows = max(1, CHUNK_BYTES // _bytes(first))
        for source, ready in zip(raw.split(rows), self.inputs.split(rows), strict=True):
            ready.copy_(self._preprocess(source))
        self.inputs = self._keep(self.inputs)

    @property
    def resident(self) -> bool:
        """Whether the examples lie where the batches are wanted."""
        return self.inputs.device == self.device

    def gather(self, rows: Tensor | None) -> Batch:
        """The examples of these rows; None for all of them as they lie."""
        inputs, targets = self.inputs, self.targets
        if rows is not None:
            inputs, targets = staged(inputs, rows, self.device), staged(targets, rows, self.device)
        return (inputs, targets) if self.finish is None else self.finish((inputs, targets))

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        start: int,
        key: int,
        shard: tuple[int, int] = WHOLE,
        augment: EpochAugment | None = None,
    ) -> Iterator[Batch]:
        """Batches in the given order, without the first ``start``; of each the part ``shard``.

        Small batches are looked up and augmented several at a time: the operations of one look-up take as long to
        start as the pixels of a hundred small images to move.
        """
        if batch_size >= len(order) and shard == WHOLE and augment is None:
            yield from () if start else self.in_order(batch_size)
            return
        home = self.inputs.device
        near = split(order.to(home), batch_size, start, shard)
        far = near if home == self.device else split(order.to(self.device), batch_size, start, shard)
        together = TOGETHER_BYTES // max(1, batch_size * self._example_bytes)
        together = max(1, min(together, MOST_TOGETHER))
        draws = _drawn(augment, [far[first : first + together] for first in range(0, len(far), together)])
        for first in range(0, len(near), together):
            some = near[first : first + together]
            found = self._augmented(_joined(some), next(draws), augment)
            inputs, targets = (_parted(tensor, [len(rows) for rows in some]) for tensor in found)
            yield from zip(inputs, targets, strict=True)

    def _augmented(self, rows: Tensor, draws: Tensor | None, augment: EpochAugment | None) -> Batch:
        """The examples of these rows; ``draws`` lie on the device."""
        if augment is None or draws is None:
            return self.gather(rows)
        if self.resident and self.finish is None:
            return augment(self.inputs, draws, rows), self.targets.index_select(0, rows)
        inputs, targets = self.gather(rows)
        return augment(inputs, draws), targets

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All batches in the order of the data; on the device they are views of what is held."""
        if not len(self.targets):
            return iter(())
        pairs = zip(self.inputs.split(batch_size), self.targets.split(batch_size), strict=True)
        if self.finish is None:
            return pairs
        finish, device = self.finish, self.device
        return (finish((pinned(inputs, device), pinned(targets, device))) for inputs, targets in pairs)


class Cut:
    """Windows of one sequence, which lies on the device."""

    resident = True

    def __init__(self, part: Windows, device: torch.device, consecutive: bool) -> None:
        self.device, self.part, self.consecutive = device, part.to(device), consecutive
        self.placement = "in memory" if device.type == "cpu" else "on the device"

    def shift(self, key: int) -> int:
        """Positions by which an epoch's windows are moved."""
        return mix(key, SHIFT) % (self.part.slack + 1)

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        start: int,
        key: int,
        shard: tuple[int, int] = WHOLE,
        augment: EpochAugment | None = None,
    ) -> Iterator[Batch]:
        """Batches in the given order, without the first ``start``; windows are not augmented."""
        shift = self.shift(key)
        for rows in split(order.to(self.device), batch_size, start, shard):
            yield self.part.gather(rows, shift)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All windows; where batches continue one another, the last row's sequence may end a few batches early."""
        rows = torch.arange(len(self.part), device=self.device)
        if not self.consecutive:
            return (self.part.gather(some) for some in rows.split(batch_size))
        batches = -(-len(rows) // batch_size)
        return (self.part.gather(rows[first::batches]) for first in range(batches))


def _drawn(augment: EpochAugment | None, groups: list[list[Tensor]]) -> Iterator[Tensor | None]:
    """The random numbers of each group of batches, of many groups at once; None without augmentation."""
    if augment is None:
        yield from [None] * len(groups)
        return
    sizes = [sum(map(len, places)) for places in groups]
    several = max(1, DRAWN_AT_ONCE // max(sizes, default=1))
    for first in range(0, len(groups), several):
        places = [batch for group in groups[first : first + several] for batch in group]
        yield from augment.draws(_joined(places)).split(sizes[first : first + several], 1)


def _parted(whole: Tensor, sizes: list[int]) -> list[Tensor]:
    """The batches of what was looked up together, each at an address that a tensor of its own could have.

    Matrix products give other last bits at other addresses, and a resumed epoch looks up other batches together.
    """
    start = whole.data_ptr()
    return [part if (part.data_ptr() - start) % ALIGNED == 0 else part.clone() for part in whole.split(sizes)]


def _aligned(tensor: Tensor) -> Tensor:
    """NumPy's memory begins at any multiple of 16 bytes, another one in each process; torch's at one of 64."""
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _room(device: torch.device) -> float:
    """Bytes that one part may take on a device."""
    if device.type == "cuda":
        return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return HOST_LIMIT


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

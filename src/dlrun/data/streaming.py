"""Batches of a part that is read item by item while training goes on, by worker processes of a ``DataLoader``.

The workers decode and collate raw values (an image stays uint8), a thread of the loader pins the batch on its way to a
CUDA device, and ``dlrun.data.moving`` copies it there beside the computing of the step before. Each worker is up to two
batches ahead. No thread reads ahead where there are no workers: items draw from the process's random generators,
which the training draws from at the same time.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sized
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from dlrun.data import Item, Preprocess
from dlrun.data.augment import EpochAugment
from dlrun.data.hashing import mix
from dlrun.data.moving import mover
from dlrun.errors import DlrunError, MemoryExhaustedError

Batch = tuple[Tensor, Tensor]
Rows = tuple[int, list[int]]  # what the items' randomness depends on, and the items of one batch
T = TypeVar("T")


def batch_sizes(examples: int, size: int) -> list[int]:
    """Sizes of the batches of one epoch. A last one of a single example joins the one before it.

    One example has no deviation, so batch normalisation cannot train on it.
    """
    full, rest = divmod(examples, size)
    sizes = [size] * full + ([rest] if rest else [])
    if rest == 1 and full:
        sizes[-2:] = [size + 1]
    return sizes


WHOLE = (0, 1)  # part 0 of 1


def split(order: Tensor, size: int, start: int, shard: tuple[int, int] = WHOLE) -> list[Tensor]:
    """The places of the examples of each batch, without the first ``start``, or of one part (number, of how many).

    The parts of a batch are as equal as can be. A batch (the last one of an epoch) with too few examples for two in
    each part, which batch normalisation needs, is cut into fewer: each goes to equally many processes, so that each
    example still counts the same.
    """
    whole = list(order.split(batch_sizes(len(order), size))[start:])
    number, parts = shard
    if parts == 1:
        return whole
    least = 2 if size >= 2 * parts else 1
    found = []
    for rows in whole:
        pieces = max(n for n in range(1, parts + 1) if parts % n == 0 and n <= max(1, len(rows) // least))
        found.append(rows.tensor_split(pieces)[number * pieces // parts])
    return found


class Streamed:
    """A map-style ``Dataset`` read by a ``DataLoader`` and preprocessed on the device.

    The workers stay for the next epoch: eight of them take half a second to start, and seconds where they have to
    import torch. They end when an epoch is left half way, when one of them fails, when told, and with this object.
    """

    def __init__(self, part: Dataset[Item], preprocess: Preprocess, device: torch.device, workers: int) -> None:
        self.part, self.device, self.workers = part, device, workers
        self.placement = f"streamed by {workers} worker{'s' if workers != 1 else ''}" if workers else "streamed"
        self._move = mover(preprocess, device)
        self._kept: tuple[DataLoader[Any], _Epoch] | None = None  # the loader whose workers wait for an epoch

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All batches in the order of the data."""
        return self.batches(torch.arange(len(cast(Sized, self.part))), batch_size, 0, 0)

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        start: int,
        key: int,
        shard: tuple[int, int] = WHOLE,
        augment: EpochAugment | None = None,
    ) -> Iterator[Batch]:
        """Batches in the given order, without the first ``start``; ``key`` is what the items' randomness depends on.

        Of each batch only what ``shard`` leaves is read.
        """
        sizes = batch_sizes(len(order), batch_size)
        rows = [(key, chunk.tolist()) for chunk in split(order, batch_size, start, shard)] if len(order) else []
        if not rows:
            return
        places = iter(split(order.to(self.device), batch_size, start, shard))
        # Two epochs at the same time, of two runs over the same data, have a loader each.
        (loader, epoch), self._kept = self._kept or self._loader(len(sizes)), None
        epoch.rows = rows
        read = iter(loader)
        while (batch := _next(read)) is not None:
            if isinstance(batch, DlrunError):
                del loader, epoch, read  # ends the workers now: the error's traceback would hold them
                raise batch
            inputs, targets = self._move(batch)
            yield (inputs if augment is None else augment(inputs, augment.draws(next(places)))), targets
        self._kept = loader, epoch

    def close(self) -> None:
        """End the workers that wait for an epoch; the next one has new ones.

        Left to the garbage collector, which may take the loader's queues before the loader, their end takes 5 seconds.
        """
        self._kept = None

    def _loader(self, batches: int) -> tuple[DataLoader[Any], _Epoch]:
        epoch, workers = _Epoch(), min(self.workers, batches)
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.part),
            batch_sampler=cast(Any, epoch),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_quiet_worker,
            generator=torch.Generator(),  # without it the loader draws from the global generator
        )
        return loader, epoch


def _next(read: Iterator[Any]) -> Batch | DlrunError | None:
    """The next batch, or the error an item met; None at the end.

    Raises:
        MemoryExhaustedError: a worker was killed.
    """
    try:
        return cast("Batch | DlrunError | None", next(read, None))
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MemoryExhaustedError(
            "a process that reads the data was killed, most often for want of memory; use fewer trainer.workers or a "
            "smaller trainer.batch_size, and in a container allow more shared memory (docker run --shm-size=8g)"
        ) from error


class _Epoch:
    """The batches of one epoch as the loader asks for them: the loader asks anew at the start of each."""

    def __init__(self) -> None:
        self.rows: list[Rows] = []

    def __iter__(self) -> Iterator[Rows]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _Seeded(Dataset[Any]):
    """Items whose own randomness (torch's and Python's generators) is a function of (seed, epoch, index).

    An error with a sentence for the user is passed on as the item: a worker would bury it in a traceback.
    """

    def __init__(self, part: Dataset[Item]) -> None:
        self.part = part

    def __getitems__(self, rows: Rows) -> list[Item | DlrunError]:
        key, indices = rows
        torch_state, python_state = torch.default_generator.get_state(), random.getstate()
        try:
            return [self._item(mix(key, index), index) for index in indices]
        finally:
            torch.default_generator.set_state(torch_state)
            random.setstate(python_state)

    def _item(self, seed: int, index: int) -> Item | DlrunError:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the accelerator's generator too
        random.seed(seed)
        try:
            return self.part[index]
        except DlrunError as error:
            return error


def _collate(items: list[Any]) -> Any:
    """Stack the items of a batch; the first error takes the batch's place."""
    return next((item for item in items if isinstance(item, DlrunError)), None) or default_collate(items)


def _quiet_worker(_: int) -> None:
    """Leave Ctrl-C to the main process; torch has set what ends a worker.

    torch's launcher passes a signal on to whole process groups: a worker in one of its own lives on while its process
    saves, and ends with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        os.setpgid(0, 0)


class Waiting:
    """How long a loop waited for its next batch, on the host's clock: what the device still waits for is not in it."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches, each wait for one counted."""
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._seconds += time.perf_counter() - started
            yield batch

    def taken(self) -> float:
        """Seconds waited since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

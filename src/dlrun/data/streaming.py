"""Batches of a part that is read item by item while training goes on, by worker processes of a ``DataLoader``."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from dlrun.data import Item, Preprocess
from dlrun.data.hashing import mix
from dlrun.errors import DlrunError

Batch = tuple[Tensor, Tensor]


def batch_sizes(examples: int, size: int) -> list[int]:
    """Sizes of the batches of one epoch. A last one of a single example joins the one before it.

    One example has no deviation, so batch normalisation cannot train on it.
    """
    full, rest = divmod(examples, size)
    sizes = [size] * full + ([rest] if rest else [])
    if rest == 1 and full:
        sizes[-2:] = [size + 1]
    return sizes


class Streamed:
    """A map-style ``Dataset`` read by a ``DataLoader`` and preprocessed on the device."""

    def __init__(self, part: Dataset[Item], preprocess: Preprocess, device: torch.device, workers: int) -> None:
        self.part, self.preprocess, self.device, self.workers = part, preprocess, device, workers
        self.placement = f"streamed by {workers} worker{'s' if workers != 1 else ''}" if workers else "streamed"

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All batches in the order of the data."""
        return self.batches(torch.arange(len(cast(Sized, self.part))), batch_size, 0, 0)

    def batches(self, order: Tensor, batch_size: int, start: int, key: int) -> Iterator[Batch]:
        """Batches in the given order, without the first ``start``; ``key`` is what the items' randomness depends on."""
        sizes = batch_sizes(len(order), batch_size)
        rows = [chunk.tolist() for chunk in order.split(sizes)[start:]] if len(order) else []
        # A loader of its own for each epoch: its workers end with the iterator, also when an epoch is left half way.
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.part, key),
            batch_sampler=rows,
            num_workers=self.workers if rows else 0,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_quiet_worker,
            generator=torch.Generator().manual_seed(key),  # without it the loader draws from the global generator
        )
        for batch in loader:
            if isinstance(batch, DlrunError):
                raise batch
            inputs, targets = batch
            inputs = inputs.to(self.device, non_blocking=True)
            yield self.preprocess(inputs), targets.to(self.device, non_blocking=True)


class _Seeded(Dataset[Any]):
    """Items whose own randomness (torch's and Python's generators) is a function of (seed, epoch, index).

    An error with a sentence for the user is passed on as the item: a worker would bury it in a traceback.
    """

    def __init__(self, part: Dataset[Item], key: int) -> None:
        self.part, self.key = part, key

    def __getitem__(self, index: int) -> Item | DlrunError:
        seed = mix(self.key, index)
        torch_state, python_state = torch.default_generator.get_state(), random.getstate()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the accelerator's generator too
        random.seed(seed)
        try:
            return self.part[index]
        except DlrunError as error:
            return error
        finally:
            torch.default_generator.set_state(torch_state)
            random.setstate(python_state)


def _collate(items: list[Any]) -> Any:
    """Stack the items of a batch; the first error takes the batch's place."""
    return next((item for item in items if isinstance(item, DlrunError)), None) or default_collate(items)


def _quiet_worker(_: int) -> None:
    """Leave Ctrl-C to the main process, and let a worker be ended: it inherits handlers that only note the signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

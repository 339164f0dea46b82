"""Batches on their way from main memory to the device: the copy of the next one runs beside the computing of this one.

Two streams take part. The copying stream brings the raw values of a batch into its own memory; the computing stream
waits for them, preprocesses them into tensors of its own, and the copying stream waits for that before it uses the
memory again. So a copy runs while the step before it computes, the device holds one raw batch however far the program
runs ahead, nothing that is handed out lies in memory of the copying stream (which the allocator would give to the next
copy: torch's ``Tensor.record_stream`` describes both remedies, this is the second), and the program waits for nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from dlrun.data import Preprocess

Batch = tuple[Tensor, Tensor]


class Streams(Protocol):
    """A copying and a computing stream of one device, and how one waits for the other."""

    def copying(self) -> AbstractContextManager[object]:
        """What is called inside is queued on the copying stream, and takes memory from it."""
        ...

    def copy(self, tensor: Tensor) -> Tensor:
        """A tensor of main memory, copied to the device."""
        ...

    def computing_waits(self) -> None:
        """Whatever is queued on the computing stream from here on begins after all that is queued for copying."""
        ...

    def copying_waits(self) -> None:
        """Whatever is queued on the copying stream from here on begins after all that is queued for computing."""
        ...


class CudaStreams:
    """Two streams of a CUDA device: one of its own for copying, and the one that is current when a batch is moved."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side = torch.cuda.Stream(device)

    def copying(self) -> AbstractContextManager[object]:
        """See ``Streams``."""
        return torch.cuda.stream(self._side)

    def copy(self, tensor: Tensor) -> Tensor:
        """See ``Streams``. From pinned memory the program does not wait; the allocator keeps the source until then."""
        return tensor.to(self.device, non_blocking=True)

    def computing_waits(self) -> None:
        """See ``Streams``."""
        torch.cuda.current_stream(self.device).wait_stream(self._side)

    def copying_waits(self) -> None:
        """See ``Streams``."""
        self._side.wait_stream(torch.cuda.current_stream(self.device))


class Beside:
    """Moves raw batches to another device beside its computing, and preprocesses them there."""

    def __init__(self, preprocess: Preprocess, streams: Streams) -> None:
        self._preprocess, self._streams = preprocess, streams

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device, in memory of the computing stream; pinned tensors move without a wait."""
        streams = self._streams
        with streams.copying():
            inputs, targets = streams.copy(batch[0]), streams.copy(batch[1])
        streams.computing_waits()
        ready = self._preprocess(inputs)
        if ready.untyped_storage().data_ptr() == inputs.untyped_storage().data_ptr():  # nothing was to be done
            ready = inputs.clone()
        kept = targets.clone()
        streams.copying_waits()
        return ready, kept


class InPlace:
    """Preprocesses batches where they are needed: on the CPU there is nowhere to move them."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self._preprocess, self._device = preprocess, device

    def __call__(self, batch: Batch) -> Batch:
        """The batch, preprocessed."""
        return self._preprocess(batch[0].to(self._device)), batch[1].to(self._device)


def mover(preprocess: Preprocess, device: torch.device) -> Beside | InPlace:
    """What brings raw batches to a device and preprocesses them there."""
    if device.type == "cuda":
        return Beside(preprocess, CudaStreams(device))
    return InPlace(preprocess, device)


def staged(values: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Rows of a tensor where it lies; pinned when they are in main memory and on their way to a CUDA device."""
    if values.device.type != "cpu" or device.type != "cuda":
        return values.index_select(0, rows)
    out = torch.empty((len(rows), *values.shape[1:]), dtype=values.dtype, pin_memory=True)
    return torch.index_select(values, 0, rows, out=out)


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """A tensor as it is; a pinned copy when it is in main memory and on its way to a CUDA device."""
    return values.pin_memory() if values.device.type == "cpu" and device.type == "cuda" else values

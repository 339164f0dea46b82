"""How work on a device is recorded once and replayed: the protocol, what it leaves, and CUDA graphs.

A CUDA graph holds the kernels of a piece of work with the addresses of their tensors; a replay launches all of them at
once. So the work must not wait for the device, and whatever changes from replay to replay must lie in tensors that stay
where they are. Random numbers go on: a graph takes the place in the generator's stream from the device.
Source: torch's notes on CUDA graphs and ``torch/cuda/graphs.py``.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from dlrun.engines.feed import Inputs
from dlrun.tasks import Logs

T = TypeVar("T")
Replay = Callable[[], None]
Columns = dict[str, Tensor]  # each logged value of several steps, (steps,)


class Ungraphable(Exception):  # noqa: N818 - not an error: the step is taken as it is written instead
    """Why some work cannot be recorded, as the end of a sentence."""

    @classmethod
    def of(cls, error: Exception) -> Ungraphable:
        """The reason that an error gives: itself, or the first line of its text."""
        if isinstance(error, Ungraphable):
            return error
        lines = str(error).strip().splitlines()
        return cls(lines[0] if lines else type(error).__name__)


@dataclass
class Recording:
    """Some steps that can be replayed; the gradients are those of the last one, for whoever looks at them."""

    replay: Replay
    inputs: Inputs
    columns: Columns
    gradients: list[Tensor | None]


def rows_of(columns: Columns) -> list[Logs]:
    """Columns (steps,) as one dict of 0-d tensors per step."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*(c.unbind() for c in columns.values()), strict=True)
    ]


@dataclass(frozen=True)
class GaveUp:
    """From which step on a run takes its steps as they are written, and why."""

    step: int
    reason: str


class Recorder(Protocol):
    """Records work on one device.

    Attributes:
        faults: recordings that failed. All that were made before such a one draw random numbers from a stream that
            is no longer the device's, and must be made anew.
    """

    faults: int

    def rehearse(self, work: Callable[[], T]) -> T:
        """Do the work; RuntimeError when something in it waits for the device, which a recording could not."""
        ...

    def capture(self, work: Callable[[], T]) -> tuple[Replay, T]:
        """Record the work without doing it: what does it, and the tensors that it returns then, always the same."""
        ...

    def wait(self) -> None:
        """Wait until everything queued is done."""
        ...

    def pace(self) -> None:
        """Wait until everything that was queued at the last call is done, so that the queue stays short."""
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory: they never run at the same time, and their inputs stay alive.

    The gradients that the last training step left are read after an evaluation: that has a recorder of its own.
    """

    faults = 0  # of all recorders: they draw from one stream of random numbers

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._done: torch.cuda.Event | None = None

    def rehearse(self, work: Callable[[], T]) -> T:
        """On the stream that captures, with torch's own check for operations that wait switched to error."""
        with self._aside(), _no_waiting():
            return work()

    def capture(self, work: Callable[[], T]) -> tuple[Replay, T]:
        """A CUDA graph. Other threads go on allocating, and nothing is freed by the garbage collector meanwhile."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        collecting = gc.isenabled()
        gc.disable()
        try:
            with self._aside():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    found = work()
                    graph.capture_end()
                except BaseException:
                    self._abandon(graph)
                    raise
        finally:
            if collecting:
                gc.enable()
        return graph.replay, found

    def wait(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)

    def pace(self) -> None:
        """By an event on the current stream."""
        if self._done is not None:
            self._done.synchronize()
        self._done = torch.cuda.Event()
        self._done.record()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream of its own, after what was queued before and before what is queued next."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Leave a capture that failed: end it, and give the generator a state that is not being captured.

        Ending a capture that an operation has broken raises before the generator and the allocator have been told.
        """
        CudaRecorder.faults += 1
        number = torch.cuda.current_device() if self.device.index is None else self.device.index
        try:
            graph.capture_end()
        except RuntimeError:
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(number, self._pool)
        generator, fresh = torch.cuda.default_generators[number], torch.Generator(self.device)
        with suppress(RuntimeError):
            fresh.set_state(generator.get_state())
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
        self._pool = torch.cuda.graph_pool_handle()


@contextmanager
def _no_waiting() -> Iterator[None]:
    """An operation that waits for the device raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the check is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)

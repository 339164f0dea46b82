"""What the hardware allows a training step at least: operations over peak, bytes over bandwidth, kernels times launch.

Operations are counted by torch's FlopCounterMode; bytes are those that the step's operations read and write when each
is a kernel of its own (views are free), so a fused step may need fewer; kernels are counted by torch.profiler; the time
of an empty kernel in a replayed graph, a large product's rate and a large copy's bandwidth are measured on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from tables import rows_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from work import Work

TIGHT = 0.5  # a floor that is at least this share of the time is what bounds it


@dataclass(frozen=True)
class Device:
    """What was measured of a device: operations and bytes per second, seconds of a replayed empty kernel."""

    operations: float
    bandwidth: float
    launch: float


@dataclass(frozen=True)
class Counted:
    """What one eager step does."""

    operations: int
    moved: int
    kernels: int


class Moved(TorchDispatchMode):
    """Adds up the bytes that operations read and write, and the operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, count what it touches."""
        found = func(*args, **(kwargs or {}))
        if not func.is_view and "detach" not in func.__name__:
            self.calls += 1
            touched = {id(t): t for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)}
            self.bytes += sum(t.numel() * t.element_size() for t in touched.values())
        return found


def one_step(job: dict[str, Any]) -> Callable[[], Any]:
    """A case's training step on its first batch, after two that warm up."""
    work = Work(job)
    x, y = (part[: work.batch].clone() for part in work.tensors())
    y = x if work.itself else y
    step = work.step(work.network().train())
    for _ in range(2):
        step(x, y)
    return lambda: step(x, y)


def count(step: Callable[[], Any], kernels: Callable[[Callable[[], Any]], int]) -> Counted:
    """Operations, bytes and kernels of a step."""
    with FlopCounterMode(display=False) as operations:
        step()
    with Moved() as moved:
        step()
    return Counted(operations.get_total_flops(), moved.bytes, kernels(step))


def launched(step: Callable[[], Any]) -> int:
    """Kernels that a step launches on the GPU, by the profiler."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as found:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in found.events())


def floor(device: Device, counted: Counted, microseconds: float) -> dict[str, Any]:
    """The three floors of a step in microseconds, how far above the highest it is, and what bounds it.

    A step within twice the highest floor is bound by that; one further away waits for the host.
    """
    floors = {
        "compute": counted.operations / device.operations * 1e6,
        "bandwidth": counted.moved / device.bandwidth * 1e6,
        "launch": counted.kernels * device.launch * 1e6,
    }
    highest = max(floors, key=lambda name: floors[name])
    bound = highest if floors[highest] >= TIGHT * microseconds else "host"
    return {"floors": floors, "times_the_floor": microseconds / floors[highest], "bound": f"{bound}-bound"}


def seconds_of(work: Callable[[], Any], times: int) -> float:
    """Seconds of one call, by CUDA events around many."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        work()
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


@cache
def measured_device() -> Device:
    """The rates of this GPU: float32 products of 8192, a copy of 1 GiB, a graph of 1,000 one-element kernels."""
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    operations = 2 * 8192**3 / seconds_of(lambda: torch.mm(a, b), 10)
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * 2**30 / seconds_of(lambda: target.copy_(source), 10)
    one = torch.zeros(1, device="cuda")
    one.add_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(1000):
            one.add_(1)
    return Device(operations, bandwidth, seconds_of(graph.replay, 20) / 1000)


def floors(job: dict[str, Any], microseconds: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Floors of a case on this GPU beside the times of dlrun and of the hand-written loops."""
    device, counted = measured_device(), count(one_step(job), launched)
    ways = [way for way in ("tensors", "graph", "dlrun") if way in microseconds]
    beside = {way: floor(device, counted, microseconds[way]["median"]) for way in ways}
    return {"device": asdict(device), "counted": asdict(counted), "ways": beside}


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The part of the page on floors."""
    device = next(row["floors"]["device"] for row in rows if "floors" in row)
    said = (
        f"Floors of a step, microseconds, from rates measured here: {device['operations'] / 1e12:.1f} TFLOP/s in "
        f"float32, {device['bandwidth'] / 1e12:.2f} TB/s, {device['launch'] * 1e6:.2f} microseconds for each replayed "
        "kernel. Bytes and kernels are those of the eager step; a fused one may stay below. Beside them how many times "
        "the highest floor each way takes, and what bounds it."
    )
    found = []
    for row in (row for row in rows if "floors" in row):
        floors, counted = row["floors"]["ways"], row["floors"]["counted"]
        some = next(iter(floors.values()))["floors"]
        ways = [
            f"{floors[way]['times_the_floor']:.1f}, {floors[way]['bound']}" if way in floors else "-"
            for way in ("tensors", "graph", "dlrun")
        ]
        names = ("compute", "bandwidth", "launch")
        found.append([row["name"], *(f"{some[name]:.1f}" for name in names), str(counted["kernels"]), *ways])
    head = ["case", "operations", "bytes", "launches", "kernels", "tensors", "graph", "dlrun"]
    return [[said], rows_of(head, found)]

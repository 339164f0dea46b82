"""The heaviest operators and kernels of a few steps, by layer of the network, from torch's own profiler."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dlrun.algorithms import updaters
from dlrun.profiling.phases import Patches, as_written
from dlrun.training.trainer import Trainer

LAYER, ENGINE = "layer ", "autograd::engine::evaluate_function: "
TOP = 10
OPTIMIZER = "optimizer"
REST = "loss, data and the rest"


@dataclass(frozen=True)
class Row:
    """One operator, kernel or layer: seconds of its own and calls in a step, its share of all, and where it runs."""

    name: str
    seconds: float
    calls: float
    share: float
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operators:
    """What the profiler saw, per step; it slows the step, so shares hold better than seconds.

    Attributes:
        steps: how many it saw.
        rows: the operators with the most time of their own: the device's on CUDA, else the processor's.
        total: seconds of all operators.
        calls: of operators that call no other.
        layers: time by layer, forward and backward; empty where the step is recorded or compiled.
        kernels: on CUDA, the heaviest kernels; ``kernel_calls`` of them all, busy for ``busy`` seconds.
    """

    steps: int
    rows: list[Row]
    total: float
    calls: float
    layers: list[Row]
    kernels: list[Row]
    kernel_calls: float
    busy: float


class OperatorRecorder:
    """Torch's profiler around some steps of a trainer."""

    def __init__(self, trainer: Trainer, device: torch.device) -> None:
        self.trainer, self.device = trainer, device
        cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
        # There is one cycle, so that accumulating changes nothing but to silence torch 2.11, which warns without.
        self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], acc_events=True)

    def steps(self, count: int) -> Iterator[int]:
        """A script: the profiler's own start in one step, which is thrown away, then ``count`` steps."""
        with profile(activities=self._profile.activities, acc_events=True):
            yield 1
        with layers_marked(self.trainer.model, self.trainer.algorithm) if as_written(self.trainer) else nullcontext():
            self._profile.start()
            try:
                yield count
                _wait(self.device)
            finally:
                self._profile.stop()

    def read(self, steps: int) -> Operators:
        """What was seen in so many steps."""
        return summarise(self._profile.events(), steps, self.device.type == "cuda")

    def save(self, path: Path) -> Path:
        """Write the trace for Perfetto or chrome://tracing, or into a folder for TensorBoard; returns the file."""
        path = trace_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(path))
        return path


def trace_file(path: Path, label: str = "") -> Path:
    """``path`` itself where it is a JSON file, else a file below that folder as TensorBoard's plug-ins look for it."""
    if path.name.endswith((".json", ".json.gz")):
        return path
    now = time.strftime("%Y-%m-%d-%H%M%S")
    session = path / "plugins" / "profile" / (f"{now}-{label}" if label else now)
    return session / f"{socket.gethostname()}_{os.getpid()}.{time.time_ns()}.pt.trace.json.gz"


@contextmanager
def layers_marked(model: nn.Module, algorithm: Any) -> Iterator[None]:
    """Name every layer (a module with parameters of its own, or without modules inside), and the optimizer."""
    open_marks: list[Any] = []
    handles, patches = [], Patches()
    for updater in updaters(algorithm).values():
        patches.put(updater, "step", torch.profiler.record_function(LAYER + OPTIMIZER)(updater.step))
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) or not any(module.children()):
            handles += [
                module.register_forward_pre_hook(_opening(open_marks, LAYER + (name or type(module).__name__))),
                module.register_forward_hook(_closing(open_marks)),
            ]
    try:
        yield
    finally:
        patches.undo()
        for handle in handles:
            handle.remove()


def _opening(marks: list[Any], name: str) -> Any:
    def hook(*_: Any) -> None:
        mark = torch.profiler.record_function(name)
        mark.__enter__()
        marks.append(mark)

    return hook


def _closing(marks: list[Any]) -> Any:
    def hook(*_: Any) -> None:
        marks.pop().__exit__(None, None, None)

    return hook


class _Sum:
    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self.where: defaultdict[str, float] = defaultdict(float)


def summarise(events: Any, steps: int, on_device: bool) -> Operators:
    """Sums of the profiler's events, per step; ``on_device`` counts what runs on the accelerator."""
    events = [event for event in events if not event.is_async]
    of_layer = _Layers(events)
    sums: defaultdict[str, _Sum] = defaultdict(_Sum)
    layers: defaultdict[str, _Sum] = defaultdict(_Sum)
    kernels: defaultdict[str, _Sum] = defaultdict(_Sum)
    calls = 0
    for event in events:
        if event.device_type != DeviceType.CPU:
            if not event.is_user_annotation:
                _add(kernels[event.name], event.time_range.elapsed_us() / 1e6)
            continue
        if event.name.startswith((LAYER, "ProfilerStep")):
            continue
        micro = event.self_device_time_total if on_device else event.self_cpu_time_total
        where = of_layer(event)
        _add(sums[event.name], micro / 1e6, where)
        _add(layers[where], micro / 1e6)
        calls += event.name.startswith("aten::") and not event.cpu_children
    busy = sum(found.seconds for found in kernels.values())
    total = sum(found.seconds for found in sums.values())
    return Operators(
        steps=steps,
        rows=_rows(sums, steps, total),
        total=total / steps,
        calls=calls / steps,
        layers=_rows(layers, steps, total) if any(name not in (REST, OPTIMIZER) for name in layers) else [],
        kernels=_rows(kernels, steps, busy),
        kernel_calls=sum(found.calls for found in kernels.values()) / steps,
        busy=busy / steps,
    )


def _add(found: _Sum, seconds: float, where: str = "") -> None:
    found.seconds += seconds
    found.calls += 1
    if where:
        found.where[where] += seconds


def _rows(sums: dict[str, _Sum], steps: int, total: float) -> list[Row]:
    heaviest = sorted(sums.items(), key=lambda item: -item[1].seconds)[:TOP]
    return [
        Row(name, s.seconds / steps, s.calls / steps, s.seconds / total if total else 0.0, _most(s.where))
        for name, s in heaviest
        if s.seconds > 0
    ]


def _most(where: dict[str, float]) -> tuple[str, ...]:
    """The three places with the most time that are layers or the optimizer."""
    named = [item for item in where.items() if item[0] != REST and item[1] > 0]
    return tuple(name for name, _ in sorted(named, key=lambda item: -item[1])[:3])


class _Layers:
    """The layer that an event belongs to: it runs inside the layer, or backward from an operator that did.

    Backward events carry the sequence number of the operator they differentiate: the last one recorded with it, since
    operators without a gradient are recorded with the number that the next one will take.
    """

    def __init__(self, events: list[Any]) -> None:
        self._of_number: dict[int, str] = {}
        forward = [e for e in events if e.device_type == DeviceType.CPU and e.sequence_nr >= 0]
        for event in sorted(forward, key=lambda e: e.time_range.start):
            if not any(parent.name.startswith(ENGINE) for parent in _upward(event)):
                self._of_number[event.sequence_nr] = self._around(event) or REST

    def __call__(self, event: Any) -> str:
        """The layer's name, ``optimizer`` or the rest."""
        for parent in _upward(event):
            if parent.name.startswith(ENGINE):
                return self._of_number.get(parent.sequence_nr, REST)
        return self._around(event) or REST

    @staticmethod
    def _around(event: Any) -> str | None:
        for parent in _upward(event):
            if parent.name.startswith(LAYER):
                return str(parent.name).removeprefix(LAYER)
        return None


def _upward(event: Any) -> Iterator[Any]:
    """The event and those that it runs in, from the inside."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

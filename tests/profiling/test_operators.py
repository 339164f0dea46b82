"""The profiler's events, summed by operator and by layer, forward and backward."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._C._autograd import DeviceType

from dlrun.profiling.operators import OPTIMIZER, REST, OperatorRecorder, summarise, trace_file
from tiny import CPU, make_trainer, plan


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.act(self.first(x)))
        return out


def watched(steps: int = 3) -> OperatorRecorder:
    trainer = make_trainer(model=Net(), plan=plan(total=100, every=1000))
    watch = OperatorRecorder(trainer, CPU)
    batches = trainer._batches()
    for wanted in watch.steps(steps):
        for _ in range(wanted):
            trainer.take_step(next(batches))
    return watch


def test_operators_are_counted_per_step_with_their_layers() -> None:
    found = watched().read(3)
    rows = {row.name: row for row in found.rows}
    assert rows["aten::addmm"].calls == 2
    assert set(rows["aten::addmm"].where) == {"first", "second"}
    assert rows["aten::mm"].calls == 3, "two gradients of weights, one of an input"
    assert set(rows["aten::mm"].where) == {"first", "second"}
    assert sum(row.share for row in found.rows) <= 1.0001
    assert found.calls > 5
    assert found.kernels == []
    assert found.busy == 0


def test_time_by_layer_has_the_backward_pass_and_the_optimizer() -> None:
    found = watched().read(3)
    layers = {row.name: row for row in found.layers}
    assert set(layers) == {"first", "act", "second", OPTIMIZER, REST}
    assert sum(row.share for row in found.layers) == pytest.approx(1)
    assert sum(row.seconds for row in found.layers) == pytest.approx(found.total)


def test_the_hooks_are_gone_afterwards() -> None:
    watch = watched()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watch.trainer.model.modules())
    assert "step" not in vars(watch.trainer.algorithm.updater)


def test_kernels_of_a_device_are_counted_by_name() -> None:
    """Events as torch gives them for CUDA, where the time is that of the kernels."""

    def event(name: str, micro: float, on: Any, **more: Any) -> Any:
        span = SimpleNamespace(start=0, elapsed_us=lambda: micro)
        usual = {"is_async": False, "is_user_annotation": False, "cpu_parent": None, "cpu_children": []}
        usual |= {"sequence_nr": -1, "self_cpu_time_total": 99.0, "self_device_time_total": micro}
        return SimpleNamespace(name=name, time_range=span, device_type=on, **(usual | more))

    events = [event("aten::mm", 6.0, DeviceType.CPU), event("aten::relu", 2.0, DeviceType.CPU)]
    events += [event("gemm", 3.0, DeviceType.CUDA), event("gemm", 3.0, DeviceType.CUDA)]
    events += [event("clamp", 2.0, DeviceType.CUDA), event("step", 50.0, DeviceType.CUDA, is_user_annotation=True)]
    found = summarise(events, 2, on_device=True)
    assert [(row.name, row.calls, row.share) for row in found.kernels] == [("gemm", 1.0, 0.75), ("clamp", 0.5, 0.25)]
    assert found.kernel_calls == 1.5
    assert found.busy == pytest.approx(4e-6)
    assert [(row.name, row.seconds) for row in found.rows] == [
        ("aten::mm", pytest.approx(3e-6)),
        ("aten::relu", pytest.approx(1e-6)),
    ]


def test_a_trace_is_written_where_its_readers_look(tmp_path: Path) -> None:
    watch = watched()
    file = watch.save(trace_file(tmp_path / "logs", "mlp-adam"))
    parts = file.relative_to(tmp_path / "logs").parts
    assert parts[:2] == ("plugins", "profile")
    assert parts[2].endswith("-mlp-adam")
    assert file.name.endswith(".pt.trace.json.gz")
    names = {event.get("name") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert {"aten::addmm", "layer first", "layer optimizer"} <= names


def test_a_json_file_is_itself(tmp_path: Path) -> None:
    for name in ("a.json", "b.json.gz"):
        assert trace_file(tmp_path / name) == tmp_path / name

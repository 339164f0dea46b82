"""The compiled step against the eager one: with the real compiler once, tiny; the rest with its tracer alone."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import nn

from dlrun.algorithms.accumulation import Accumulation
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.engines.compiled import Compiled
from dlrun.engines.eager import Eager
from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from tiny import FACTS, batches, make_updater


def trained(engine: Any, model: nn.Module, pieces: int = 1, steps: int = 4) -> list[torch.Tensor]:
    """The weights after a few steps of one and the same batch."""
    model = copy.deepcopy(model)
    updater = make_updater(model)
    task = Regression(MeanSquaredError(), FACTS, standardize=False)
    algorithm: Any = Backpropagation(model, task, updater, Precision())
    step = engine.prepare(Accumulation(algorithm, updater, pieces) if pieces > 1 else algorithm)
    batch = next(batches(10, 10).in_order())
    for _ in range(steps):
        logs = step(batch)
        assert logs["loss"].shape == ()
        assert not logs["loss"].requires_grad
    return [p.detach() for p in model.parameters()]


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.fixture
def _tracer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass is traced into a graph, as for the compiler, and the graph run by torch itself."""
    compile_it = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode: compile_it(f, backend="eager", fullgraph=True))
    torch._dynamo.reset()


@pytest.mark.usefixtures("_tracer_alone")
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_traced_step_gives_the_eager_weights(network: nn.Module, pieces: int) -> None:
    for a, b in zip(trained(Eager(), network, pieces), trained(Compiled(), network, pieces), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_step_gives_the_eager_weights(network: nn.Module) -> None:
    """Kernels are fused, so sums are rounded in another order: float32, four steps."""
    torch._dynamo.reset()
    for a, b in zip(trained(Eager(), network), trained(Compiled(), network), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_mode_is_handed_on(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    seen: list[str] = []

    def compile_it(f: Any, mode: str) -> Any:
        seen.append(mode)
        return f

    monkeypatch.setattr(torch, "compile", compile_it)
    trained(Compiled(mode="max-autotune"), network, steps=1)
    assert seen == ["max-autotune"]

"""Losses and gradients of all lanes in one pass, against each network's own."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dlrun.packing import gradient as gradient_module
from dlrun.packing.flat import Unpackable
from dlrun.packing.gradient import PackedBatch, PackedGradient
from dlrun.packing.stack import Stack

Loss = Callable[[nn.Module, tuple[Tensor, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = F.mse_loss(model(batch[0]), batch[1])
    return loss, {"loss": loss.detach()}


class Task:
    def __init__(self, loss: Loss) -> None:
        self.loss = loss


class Algorithm:
    """What a pack needs of an algorithm."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model, self.task = model, task

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.task.loss(self.model, batch)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2))


def make(
    lanes: int = 3, network: Callable[[], nn.Module] = network, loss: Loss = squared_error
) -> tuple[PackedGradient, Stack]:
    torch.manual_seed(0)
    models = [network() for _ in range(lanes)]
    parameters = [[p for p in model.parameters() if p.requires_grad] for model in models]
    named = {id(p): name for name, p in models[0].named_parameters()}
    gradient = PackedGradient([Algorithm(m, Task(loss)) for m in models], [named[id(p)] for p in parameters[0]])
    return gradient, Stack(models, parameters)


def batch(lanes: int | None = 3, size: int = 8) -> PackedBatch:
    shape = (size,) if lanes is None else (lanes, size)
    return PackedBatch(torch.randn(*shape, 3), torch.randn(*shape, 2), shared=lanes is None)


def generators(lanes: int = 3) -> list[Generator]:
    return [Generator().manual_seed(lane) for lane in range(lanes)]


def one_by_one(
    gradient: PackedGradient, stack: Stack, data: PackedBatch, sources: Sequence[Generator]
) -> tuple[Tensor, Tensor]:
    """Losses (K,) and gradients (K, P) of each network alone; the networks' buffers stay as they are."""
    losses, rows = [], []
    for lane, algorithm in enumerate(gradient.algorithms):
        kept = {name: b.clone() for name, b in algorithm.model.named_buffers()}
        with torch.random.fork_rng([]):
            torch.set_rng_state(sources[lane].get_state())
            loss, _ = algorithm.forward(data.of(lane))
        losses.append(loss.detach())
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, stack.trainable[lane])]))
        for name, b in algorithm.model.named_buffers():
            b.copy_(kept[name])
    return torch.stack(losses), torch.stack(rows)


@pytest.mark.parametrize("shared", [True, False])
def test_losses_and_gradients_are_each_networks_own(shared: bool) -> None:
    gradient, stack = make()
    sources = generators()
    for size in (8, 8, 5, 8):  # first of its form, again, another form, the first form again
        data = batch(None if shared else 3, size)
        losses, rows = one_by_one(gradient, stack, data, sources)
        logs = gradient(stack, data, sources)
        torch.testing.assert_close(logs["loss"], losses, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(stack.gradients, rows, rtol=1e-5, atol=1e-7)
        assert not logs["loss"].requires_grad
    assert len(gradient.plans) == 2


def test_statistics_of_batches_are_each_lanes_own() -> None:
    gradient, stack = make()
    alone, _ = make()
    sources, others = generators(), generators()
    for size in (8, 8, 5):
        data = batch(3, size)
        gradient(stack, data, sources)
        for lane, algorithm in enumerate(alone.algorithms):
            with torch.random.fork_rng([]):
                torch.set_rng_state(others[lane].get_state())
                algorithm.forward(data.of(lane))
                others[lane].set_state(torch.get_rng_state())
    for model, algorithm in zip(stack.models, alone.algorithms, strict=True):
        for (name, found), wanted in zip(model.named_buffers(), algorithm.model.buffers(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7, msg=name)
        assert int(model.get_buffer("1.num_batches_tracked")) == 3
    states = [(one.get_state(), other.get_state()) for one, other in zip(sources, others, strict=True)]
    assert all(torch.equal(one, other) for one, other in states)


def test_dropped_lanes_leave_the_others_their_own_gradients() -> None:
    gradient, stack = make(4)
    sources = generators(4)
    gradient(stack, batch(4), sources)
    gradient.keep([1, 3])
    stack.keep([1, 3])
    data, sources = batch(2), [sources[1], sources[3]]
    losses, rows = one_by_one(gradient, stack, data, sources)
    torch.testing.assert_close(gradient(stack, data, sources)["loss"], losses, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(stack.gradients, rows, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_lane_that_is_not_finite_passes_a_new_form_and_leaves_the_others_alone(value: float) -> None:
    gradient, stack = make()
    sources = generators()
    stack.weights[1] = value
    data = batch()
    _, rows = one_by_one(gradient, stack, data, sources)
    logs = gradient(stack, data, sources)
    assert logs["loss"].isfinite().tolist() == [True, False, True]
    torch.testing.assert_close(stack.gradients[[0, 2]], rows[[0, 2]], rtol=1e-5, atol=1e-7)


# --- What is refused, each time with everything as it was


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Looks(nn.Module):
    """A branch on the data, which no stacked pass can take for all lanes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        return found * 2 if float(found.sum()) > 0 else found


class Rolls(nn.Module):
    """Random numbers of Python's own, of which the stacked pass draws one for all lanes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(3, 2), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.kept(x)) * random.random()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Unused, "does not depend on every parameter"),
        (Looks, "vmap cannot run this network"),
        (Rolls, "does not compute what each network computes alone"),
    ],
)
def test_what_cannot_be_stacked_is_refused(network: Callable[[], nn.Module], reason: str) -> None:
    gradient, stack = make(network=network)
    before = {name: tensor.clone() for name, tensor in stack.fixed.items()}
    with pytest.raises(Unpackable, match=reason):
        gradient(stack, batch(), generators())
    assert all(torch.equal(stack.fixed[name], tensor) for name, tensor in before.items())


# --- Compilation


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled; ``torch.compile`` itself takes seconds, so the program runs as it is written."""
    found: list[Any] = []

    def noted(program: Any, **options: Any) -> Any:
        found.append((program, options))
        return program

    monkeypatch.setattr(torch, "compile", noted)
    monkeypatch.setattr(gradient_module, "COMPILED_AT", 2)
    return found


def test_the_compiled_program_computes_the_same(programs: list[Any]) -> None:
    gradient, stack = make()
    gradient.compiles = True
    sources = generators()
    for turn in range(5):
        data = batch()
        losses, rows = one_by_one(gradient, stack, data, sources)
        torch.testing.assert_close(gradient(stack, data, sources)["loss"], losses, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(stack.gradients, rows, rtol=1e-5, atol=1e-7)
        assert len(programs) == (turn >= 1)  # with the second of its form
    gradient(stack, batch(size=5), sources)
    assert len(programs) == 1  # a form that is seldom seen is not worth it


def test_dropped_lanes_are_compiled_anew(programs: list[Any]) -> None:
    gradient, stack = make()
    gradient.compiles = True
    for _ in range(4):
        gradient(stack, batch(), generators())
    gradient.keep([0, 1])
    stack.keep([0, 1])
    for _ in range(4):
        gradient(stack, batch(2), generators(2))
    assert len(programs) == 2


def test_without_a_compiler_the_pack_goes_on(
    monkeypatch: pytest.MonkeyPatch, programs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        def program(*_: Any) -> Any:
            raise RuntimeError("InvalidCxxCompiler: no C++ compiler\nmore")

        return program

    monkeypatch.setattr(torch, "compile", failing)
    gradient, stack = make()
    gradient.compiles = True
    sources = generators()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            data = batch()
            _, rows = one_by_one(gradient, stack, data, sources)
            gradient(stack, data, sources)
            torch.testing.assert_close(stack.gradients, rows, rtol=1e-5, atol=1e-7)
    assert not gradient.compiles
    assert [record.message for record in caplog.records] == [
        "the pack is not compiled: InvalidCxxCompiler: no C++ compiler"
    ]

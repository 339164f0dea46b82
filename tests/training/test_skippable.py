"""Steps that are left out where a float16 gradient overflows: counted waits, and the state afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dlrun.optimizers import GradientDescent, Lion, Muon
from dlrun.training.lean import LeanStep
from dlrun.training.skippable import Skippable
from dlrun.training.updater import ClipByNorm, Updater

MAKERS: dict[str, Any] = {
    "gd": lambda params: GradientDescent(params, lr=0.1),
    "lion": lambda params: Lion(params, lr=0.01),
    "muon": lambda params: Muon(params, lr=0.01),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.5, capturable=False),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, fused=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True),
}


class Reads(TorchDispatchMode):
    """Counts how often the host reads a number from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def updater(model: nn.Module, name: str, clipped: bool = False, scaled: bool = True) -> Updater:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
    return Updater(MAKERS[name](list(model.parameters())), scaler, [ClipByNorm(0.5)] if clipped else [])


def step(model: nn.Module, of: Updater, seed: int, overflow: bool = False) -> None:
    of.zero_grad()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    of.backward(model(x).square().mean() * (torch.inf if overflow else 1.0))
    of.step()


def everything(model: nn.Module, of: Updater) -> list[Tensor]:
    state = of.optimizer.state
    return [t.clone() for p in model.parameters() for t in (p.detach(), *state[p].values())]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("name", ["gd", "lion", "muon", "adam", "sgd"])
def test_no_step_waits_for_the_device(name: str, clipped: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    of = updater(model, name, clipped)
    for seed in range(2):
        step(model, of, seed)
    with Reads() as reads:
        for seed in range(3):
            step(model, of, seed)
        step(model, of, 9, overflow=True)
    assert reads.count == 0


def test_the_count_finds_a_wait() -> None:
    with Reads() as reads:
        torch.ones(()).item()
    assert reads.count == 1


@pytest.fixture
def unwritten_memory_is_nan() -> Iterator[None]:
    """What torch leaves unwritten is filled with NaN, so that whoever uses it is found out."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = False


@pytest.mark.parametrize("dampening", [0.0, 0.5])
@pytest.mark.usefixtures("unwritten_memory_is_nan")
def test_momentum_begins_at_zero_when_the_first_step_overflows(dampening: float) -> None:
    """torch's own fused SGD goes on with unwritten memory; a run without the overflow is the reference."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    pair = model, copy.deepcopy(model)
    for twin, overflows in zip(pair, (True, False), strict=True):
        sgd = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, dampening=dampening, fused=True)
        of = Updater(sgd, torch.amp.GradScaler("cpu", init_scale=8.0, enabled=overflows))
        if overflows:
            step(twin, of, 0, overflow=True)
        for seed in range(3):
            step(twin, of, seed)
    for one, other in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.usefixtures("unwritten_memory_is_nan")
def test_a_step_that_overflows_changes_nothing(name: str, clipped: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    of = updater(model, name, clipped)
    weights = [p.detach().clone() for p in model.parameters()]
    step(model, of, 0, overflow=True)  # before there is any state
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    step(model, of, 0)
    before = everything(model, of)
    step(model, of, 1, overflow=True)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(model, of), strict=True))
    assert of.scaler.get_scale() == 2.0  # halved twice


@pytest.mark.parametrize("name", MAKERS)
def test_other_steps_are_those_without_a_scaler(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    other = copy.deepcopy(model)
    with_it, without = updater(model, name), updater(other, name, scaled=False)
    for seed in range(4):
        step(model, with_it, seed)
        step(other, without, seed)
    for a, b in zip(everything(model, with_it), everything(other, without), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_state_elsewhere_is_waited_for() -> None:
    """A step counter on the host can only be held back by asking; so it is on the meta device, which cannot answer."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = Lion([weight])
    optimizer.state[weight] = {"momentum": torch.zeros(2), "step": torch.zeros((), device="meta")}
    skippable = Skippable(optimizer, LeanStep(optimizer))
    skippable.found_inf, skippable.grad_scale = torch.ones(()), None
    with Reads() as reads:
        skippable.step()
    assert reads.count == 1
    assert torch.equal(weight, torch.ones(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("name", ["gd", "lion", "muon", "adam", "sgd"])
def test_no_step_waits_for_a_gpu(name: str) -> None:
    model = nn.Linear(3, 2).cuda()
    of = Updater(MAKERS[name](list(model.parameters())), torch.amp.GradScaler("cuda"))
    x = torch.randn(4, 3, device="cuda")

    def one() -> None:
        of.zero_grad()
        of.backward(model(x).square().mean())
        of.step()

    for _ in range(3):
        one()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one()
    finally:
        torch.cuda.set_sync_debug_mode("default")

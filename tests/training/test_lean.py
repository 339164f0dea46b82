"""The lean step and backward pass against torch's own: the same bits, the same state, in every situation."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from dlrun.training import lean
from dlrun.training.lean import LeanStep, backward, without_compiler

CONFIGS = Path(__file__).parents[2] / "configs" / "optimizer"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "lbfgs")  # which wants a closure
FUSED = {"adam": "adam", "adamw": "adamw", "adagrad": "adagrad", "momentum": "sgd", "nesterov": "sgd", "sgd": "sgd"}


class Net(nn.Module):
    """A layer, a layer that some steps leave out, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side, self.frozen, self.last = (nn.Linear(4, 4) for _ in range(4))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor, side: bool = True) -> Tensor:
        hidden = self.frozen(self.first(x)).tanh()
        out: Tensor = self.last(hidden + self.side(x) if side else hidden)
        return out


def make(name: str, parameters: Any, **changes: Any) -> Optimizer:
    node = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | changes
    module, _, attribute = node.pop("_target_").rpartition(".")
    optimizer: Optimizer = getattr(importlib.import_module(module), attribute)(parameters, **node)
    return optimizer


def twins(optimizer_of: Callable[[Net], Optimizer]) -> list[tuple[Net, Optimizer]]:
    torch.manual_seed(0)
    mine = Net()
    other = copy.deepcopy(mine)
    return [(net, optimizer_of(net)) for net in (mine, other)]


def gradients(net: Net, number: int, side: bool = True) -> None:
    net.zero_grad()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
    net(x, side).square().mean().backward()


def assert_equal(pairs: Sequence[tuple[Net, Optimizer]]) -> None:
    (mine, first), (other, second) = pairs
    for name, value in mine.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    states = [optimizer.state_dict() for optimizer in (first, second)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, held in states[0]["state"].items():
        assert list(held) == list(states[1]["state"][number])
        for key, value in held.items():
            expected = states[1]["state"][number][key]
            assert value is None is expected or (torch.equal(value, expected) and value.dtype == expected.dtype), key


def run(pairs: list[tuple[Net, Optimizer]], steps: Sequence[bool], rates: Callable[[int], float] | None = None) -> None:
    """Step ``side`` or not, the first net by the lean step and the second by torch's, and compare after each."""
    (_, first), (_, second) = pairs
    step = LeanStep(first)
    for number, side in enumerate(steps):
        for net, optimizer in pairs:
            gradients(net, number, side)
            for group in optimizer.param_groups if rates else ():
                group["lr"] = rates(number)  # type: ignore[misc]
        step()
        second.step()
        assert_equal(pairs)


def trainable(net: Net) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_makes_the_same_step_to_the_bit(name: str) -> None:
    run(twins(lambda net: make(name, trainable(net))), [True] * 6, lambda number: 0.01 / (1 + number))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("adam", {"weight_decay": 0.1}),
        ("adam", {"amsgrad": True}),
        ("adam", {"maximize": True}),
        ("adamw", {"amsgrad": True, "weight_decay": 0.3}),
        ("sgd", {"weight_decay": 0.1}),
        ("momentum", {"dampening": 0.2, "maximize": True}),
        ("nesterov", {"weight_decay": 0.1}),
        ("adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
        ("adam", {"fused": False}),
        ("momentum", {"fused": None}),
        ("rmsprop", {"momentum": 0.5, "centered": True}),
    ],
    ids=str,
)
def test_settings_reach_the_kernel(name: str, changes: dict[str, Any]) -> None:
    run(twins(lambda net: make(name, trainable(net), **changes)), [True] * 5)


# torch's own fused momentum takes no list in which some parameters have had no step yet.
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"momentum", "nesterov"}))
def test_a_parameter_without_a_gradient_stays_as_it_is(name: str) -> None:
    run(twins(lambda net: make(name, trainable(net))), [False, False, True, True, False, True])


def test_a_parameter_that_loses_its_gradient_keeps_its_momentum() -> None:
    run(twins(lambda net: make("momentum", trainable(net))), [True, True, False, False, True])


def test_groups_keep_their_own_settings() -> None:
    def two(net: Net) -> Optimizer:
        groups = [{"params": net.first.parameters(), "lr": 0.1}, {"params": net.last.parameters(), "weight_decay": 0.1}]
        return make("adam", groups)

    run(twins(two), [True] * 4)


def test_groups_of_which_one_has_no_momentum() -> None:
    def two(net: Net) -> Optimizer:
        groups = [{"params": net.first.parameters(), "momentum": 0.0}, {"params": net.last.parameters()}]
        return make("momentum", groups)

    run(twins(two), [True] * 4)


@pytest.mark.parametrize("name", ["adam", "momentum", "adagrad", "sgd"])
def test_a_loaded_state_is_the_one_that_goes_on(name: str) -> None:
    pairs = twins(lambda net: make(name, trainable(net)))
    run(pairs, [True] * 3)
    (mine, first), (other, second) = pairs
    step = LeanStep(first)
    gradients(mine, 0)
    step()
    gradients(mine, 1)
    step()
    gradients(mine, 2)
    mine.load_state_dict(other.state_dict())
    first.load_state_dict(copy.deepcopy(second.state_dict()))
    for number in range(3):
        for net in (mine, other):
            gradients(net, number)
        step()
        second.step()
        assert_equal(pairs)


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_tensors_that_a_pack_puts_into_the_state_are_used(name: str) -> None:
    pairs = twins(lambda net: make(name, trainable(net)))
    (mine, first), (other, second) = pairs
    step = LeanStep(first)
    for number in range(4):
        for net in (mine, other):
            gradients(net, number)
        if number == 2:
            for held in first.state.values():
                held.update({key: value.clone() for key, value in held.items()})
        step()
        second.step()
        assert_equal(pairs)


@pytest.mark.parametrize("name", sorted(FUSED))
def test_the_fused_kernel_is_what_makes_the_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ((net, optimizer), _) = twins(lambda net: make(name, trainable(net)))
    step, calls = LeanStep(optimizer), []
    gradients(net, 0)
    step()
    operation = f"_fused_{FUSED[name]}_"
    kernel = getattr(torch, operation)
    monkeypatch.setattr(torch, operation, lambda *a, **k: (calls.append(operation), kernel(*a, **k)))
    monkeypatch.setattr(step, "_loop", lambda _: pytest.fail("the step was made by the optimizer's own loop"))
    gradients(net, 1)
    step()
    assert calls == [operation]


def test_a_kernel_with_other_arguments_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    known = lean.KERNELS[torch.optim.Adam]
    monkeypatch.setitem(lean.KERNELS, torch.optim.Adam, replace(known, arguments=known.arguments + " new"))
    pairs = twins(lambda net: make("adam", trainable(net)))
    step = LeanStep(pairs[0][1])
    gradients(pairs[0][0], 0)
    step()
    assert step._collected == [], "the step would be made by the kernel"
    run(twins(lambda net: make("adam", trainable(net))), [True] * 3)


@pytest.mark.parametrize("whose", ["this optimizer's", "every optimizer's"])
def test_hooks_are_called(whose: str) -> None:
    ((net, optimizer), _) = twins(lambda net: make("adam", trainable(net)))
    step, calls = LeanStep(optimizer), []
    gradients(net, 0)
    step()
    step()

    def hook(*_: Any) -> None:
        calls.append("hook")

    mine = whose == "this optimizer's"
    handle = optimizer.register_step_pre_hook(hook) if mine else register_optimizer_step_post_hook(hook)
    step()
    handle.remove()
    step()
    assert calls == ["hook"]


def test_an_optimizer_of_someone_else_is_called_as_it_is() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            calls.append("step")

    calls: list[str] = []
    net = Net()
    step = LeanStep(Own(trainable(net), lr=0.1, fused=True))
    step()
    step()
    assert calls == ["step", "step"]


def test_a_rate_in_a_tensor_makes_the_same_step() -> None:
    run(twins(lambda net: make("adam", trainable(net), lr=torch.tensor(0.01))), [True] * 3)


def test_backward_equals_torch_s() -> None:
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(6, 5), torch.arange(6) % 3
    F.cross_entropy(net(x), y).backward()
    expected = [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
    net.zero_grad()
    for times in (1, 2):  # gradients add up
        backward(F.cross_entropy(net(x), y))
        assert all(torch.equal(p.grad, times * e) for p, e in zip(net.parameters(), expected, strict=True))  # type: ignore[arg-type]


def test_backward_says_what_torch_says() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(torch.ones(()))
    with pytest.raises(RuntimeError, match="scalar outputs"):
        backward(torch.ones(3, requires_grad=True))


def test_neither_the_construction_nor_the_steps_import_the_compiler() -> None:
    names = [name for name in NAMES if name != "muon"]
    code = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_lean as cases
for name in {names!r}:
    net = cases.Net()
    with cases.without_compiler():
        step = cases.LeanStep(cases.make(name, cases.trainable(net)))
    for number in range(2):
        net.zero_grad()
        cases.backward(net(torch.ones(2, 4)).square().mean())
        step()
    assert "torch._dynamo" not in sys.modules, name
assert not hasattr(torch.optim.Optimizer.add_param_group.__wrapped__, "__dynamo_disable")
torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
assert "torch._dynamo" in sys.modules, "this torch no longer imports it: without_compiler can go"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_where_the_compiler_is_imported_nothing_is_changed() -> None:
    import torch._dynamo

    with without_compiler():
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    assert len(optimizer.param_groups) == 1

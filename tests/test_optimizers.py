"""Every optimizer against its rule written out in one line, and every default against real data."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from dlrun.errors import ConfigError
from dlrun.models.mlp import MLP
from dlrun.optimizers import GradientDescent, Lion, Muon, orthogonal

CONFIGS = Path(__file__).parents[1] / "configs" / "optimizer"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
STEPS = 12
State = dict[str, Tensor]


def make(name: str, params: Any, **changes: Any) -> Optimizer:
    node = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    node = node.get("optimizer", node) | changes
    module, _, attribute = node.pop("_target_").rpartition(".")
    optimizer: Optimizer = getattr(importlib.import_module(module), attribute)(params, **node)
    return optimizer


def objective(w: Tensor) -> Tensor:
    """Curved differently along each axis, with its minimum off zero."""
    scale = torch.linspace(0.5, 3.0, w.numel(), dtype=w.dtype)
    return (scale * (w - 0.3).square()).sum() / 2 + torch.cos(w).sum() / 4


def gradient(w: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    (result,) = torch.autograd.grad(objective(w), w)
    return result


def start() -> Tensor:
    return torch.linspace(-1.0, 1.0, 6, dtype=torch.double)


def path_of(optimizer_of: Callable[[list[Tensor]], Optimizer]) -> list[Tensor]:
    w = start().requires_grad_()
    optimizer = optimizer_of([w])
    path = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        objective(w).backward()
        optimizer.step()
        path.append(w.detach().clone())
    return path


def path_by_hand(rule: Callable[[Tensor, Tensor, State, int], Tensor]) -> list[Tensor]:
    w, state, path = start(), {}, []
    for t in range(1, STEPS + 1):
        w = rule(w, gradient(w), state, t)
        path.append(w)
    return path


def running(state: State, key: str, value: Tensor, decay: float) -> Tensor:
    state[key] = decay * state.get(key, torch.zeros_like(value)) + (1 - decay) * value
    return state[key]


def gd(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    return w - 0.1 * g


def momentum(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    """As MISSION.md has it: dw <- mu dw - lr grad; w <- w + dw."""
    state["dw"] = 0.9 * state.get("dw", torch.zeros_like(w)) - 0.1 * g
    return w + state["dw"]


def nesterov(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    """v <- mu v + g; w <- w - lr (g + mu v) (Sutskever 2013, in the variables of the point looked at)."""
    state["v"] = 0.9 * state.get("v", torch.zeros_like(w)) + g
    return w - 0.1 * (g + 0.9 * state["v"])


def adagrad(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    state["sum"] = state.get("sum", torch.zeros_like(w)) + g**2
    return w - 0.1 * g / (state["sum"].sqrt() + 1e-10)


def adadelta(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    """Algorithm 1 of Zeiler 2012."""
    before = state.get("dx2", torch.zeros_like(w))
    dx = -(before + 1e-6).sqrt() / (running(state, "g2", g**2, 0.9) + 1e-6).sqrt() * g
    running(state, "dx2", dx**2, 0.9)
    return w + dx


def rmsprop(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    return w - 0.1 * g / (running(state, "g2", g**2, 0.9).sqrt() + 1e-8)


def adam(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    """Algorithm 1 of Kingma and Ba 2015."""
    m, v = running(state, "m", g, 0.9) / (1 - 0.9**t), running(state, "v", g**2, 0.999) / (1 - 0.999**t)
    return w - 0.1 * m / (v.sqrt() + 1e-8)


def adamw(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    return adam(w - 0.1 * 0.01 * w, g, state, t)


def lion(w: Tensor, g: Tensor, state: State, t: int) -> Tensor:
    """Program 1 of Chen et al. 2023."""
    c = 0.9 * state.get("m", torch.zeros_like(w)) + 0.1 * g
    running(state, "m", g, 0.99)
    return w - 0.1 * (c.sign() + 0.2 * w)


RULES: dict[str, tuple[Callable[[Tensor, Tensor, State, int], Tensor], dict[str, float]]] = {
    "gd": (gd, {"lr": 0.1}),
    "sgd": (gd, {"lr": 0.1}),
    "momentum": (momentum, {"lr": 0.1}),
    "nesterov": (nesterov, {"lr": 0.1}),
    "adagrad": (adagrad, {"lr": 0.1}),
    "adadelta": (adadelta, {}),
    "rmsprop": (rmsprop, {"lr": 0.1}),
    "adam": (adam, {"lr": 0.1}),
    "adamw": (adamw, {"lr": 0.1}),
    "lion": (lion, {"lr": 0.1, "weight_decay": 0.2}),
}


@pytest.mark.parametrize("name", RULES)
def test_optimizer_equals_its_rule_to_rounding(name: str) -> None:
    rule, changes = RULES[name]
    paths = zip(path_of(lambda p: make(name, p, **changes)), path_by_hand(rule), strict=True)
    for ours, by_hand in paths:
        torch.testing.assert_close(ours, by_hand, rtol=1e-10, atol=1e-12)


def test_torchs_momentum_keeps_its_pace_when_the_rate_changes_and_the_books_does_not() -> None:
    """torch's w <- w - lr v scales the whole memory by the new rate; in the book's dw each part keeps its own."""
    w = torch.zeros(1, requires_grad=True)
    optimizer = make("momentum", [w], lr=1.0)
    for lr in (1.0, 0.1):
        optimizer.param_groups[0]["lr"] = lr
        w.grad = torch.ones(1)
        optimizer.step()
    torch_way, book_way = -1.0 - 0.1 * (0.9 + 1), -1.0 + (0.9 * -1.0 - 0.1)
    assert w.item() == pytest.approx(torch_way)
    assert torch_way != pytest.approx(book_way)


def test_gradient_descent_takes_one_step_by_hand() -> None:
    """J = (w x - y)^2 with x = 2, y = 3, w = 1: dJ/dw = 2 x (w x - y) = -4."""
    w = torch.tensor([1.0], requires_grad=True)
    optimizer = GradientDescent([w], lr=0.1)
    (w * 2 - 3).square().sum().backward()
    optimizer.step()
    assert w.item() == pytest.approx(1.4)
    assert GradientDescent.full_batch is True


def test_muon_on_a_matrix_by_hand() -> None:
    w = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = Muon([w], lr=0.1, weight_decay=0.5, momentum=0.9)
    by_hand, m = w.detach().clone(), torch.zeros(4, 3)
    for step in range(3):
        w.grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(step + 1))
        m = 0.9 * m + w.grad
        by_hand = by_hand - 0.1 * 0.5 * by_hand - 0.1 * (4 / 3) ** 0.5 * orthogonal(w.grad + 0.9 * m)
        optimizer.step()
        torch.testing.assert_close(w.detach(), by_hand)


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (1, 6)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, _ = torch.linalg.svd(orthogonal(matrix), full_matrices=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(u @ u.T @ left @ left.T, left @ left.T, rtol=1e-3, atol=1e-3)
    assert torch.einsum("ij,ij->", orthogonal(matrix), u @ vt) > 0.6 * min(shape)


def test_muon_agrees_with_torchs_on_the_direction() -> None:
    """torch's runs its iterations in bfloat16, so the agreement is coarse."""
    grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.zeros(6, 6, requires_grad=True) for _ in range(2))
    for w, optimizer in ((ours, Muon([ours], lr=1.0)), (theirs, torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0))):
        w.grad = grad.clone()
        optimizer.step()
    assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.99


def test_muon_gives_vectors_to_adamw_and_convolutions_to_matrices() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    optimizer = Muon(model.parameters(), lr=0.02, adam_lr=1e-3)
    assert [(g["lr"], len(g["params"])) for g in optimizer.param_groups] == [(0.02, 1), (1e-3, 3)]


def test_muon_moves_vectors_as_adamw_does() -> None:
    w = start().requires_grad_()
    twin = start().requires_grad_()
    ours = Muon([w], adam_lr=0.1, weight_decay=0.01)
    theirs = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.01)
    for _ in range(STEPS):
        for parameter, other in ((w, ours), (twin, theirs)):
            other.zero_grad()
            objective(parameter).backward()
            other.step()
        torch.testing.assert_close(w, twin, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_state_saved_and_loaded_goes_on_to_the_same_bits(name: str) -> None:
    x = torch.randn(8, 3)

    def steps(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        for _ in range(number):
            optimizer.step(closure)  # type: ignore[arg-type]

    torch.manual_seed(0)
    first, second = MLP((3,), 2, nn.Tanh, hidden=[4]), MLP((3,), 2, nn.Tanh, hidden=[4])
    one, two = make(name, first.parameters()), make(name, second.parameters())
    steps(first, one, 3)
    second.load_state_dict(first.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))  # torch shares the tensors otherwise
    steps(first, one, 2)
    steps(second, two, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("kind", [GradientDescent, Lion, Muon])
def test_rate_may_be_a_tensor(kind: Callable[..., Optimizer]) -> None:
    w, v = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    one, two = kind([w], lr=0.1), kind([v], lr=0.1)
    two.param_groups[0]["lr"] = torch.tensor(0.1)
    for parameter, optimizer in ((w, one), (v, two)):
        parameter.grad = torch.eye(2)
        optimizer.step()
    torch.testing.assert_close(w, v)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32), torch.tensor(targets)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    x = (x - x[train].mean()) / x[train].std()
    return x[train], y[train], x[test], y[test]


@pytest.mark.parametrize("name", NAMES)
def test_default_rate_learns_digits(name: str, digits: tuple[Tensor, ...]) -> None:
    """An MLP, 20 epochs of batches of 64 (460 steps); gd has 460 steps of the whole set, L-BFGS 20."""
    x, y, x_test, y_test = digits
    torch.manual_seed(0)
    model = MLP((64,), 10, nn.ReLU)
    optimizer = make(name, model.parameters())
    size, epochs = {"gd": (len(x), 460), "lbfgs": (len(x), 20)}.get(name, (64, 20))
    source = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=source).split(size):

            def closure(rows: Tensor = rows) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[rows]), y[rows])
                loss.backward()
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]
    assert (model(x_test).argmax(1) == y_test).float().mean() > 0.95


@pytest.mark.parametrize(
    "build",
    [
        lambda p: GradientDescent(p, lr=-1),
        lambda p: Lion(p, betas=(1.0, 0.9)),
        lambda p: Muon(p, momentum=2.0),
        lambda p: Muon([{"params": p}]),
    ],
)
def test_wrong_settings_are_refused(build: Callable[[list[Tensor]], Any]) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        build([torch.zeros(2, requires_grad=True)])

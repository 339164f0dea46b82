"""Annealed importance sampling against machines whose log Z is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dlrun.models.rbm import RBM, RBMView
from dlrun.tasks.annealed_importance import anneal, betas, enumerable, estimate, exact_log_z


def machine(visible: int, hidden: int, kind: str = "bernoulli", std: float = 0.5) -> RBMView:
    torch.manual_seed(0)
    model = RBM((visible,), hidden, kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std)
    return model.view()


def brute_force(view: RBMView) -> float:
    """Sum over every pair of states of exp(-E(v, h))."""
    total = 0.0
    for v in itertools.product([0.0, 1.0], repeat=view.weight.shape[1]):
        for h in itertools.product([0.0, 1.0], repeat=view.weight.shape[0]):
            a, b = torch.tensor(v), torch.tensor(h)
            total += math.exp(float((a @ view.visible_bias + b @ view.hidden_bias + b @ view.weight @ a).detach()))
    return math.log(total)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_exact_log_z_is_the_sum_over_all_states(shape: tuple[int, int]) -> None:
    view = machine(*shape)
    assert float(exact_log_z(view)) == pytest.approx(brute_force(view), abs=1e-5)  # float32 in the slow sum


def test_exact_log_z_of_many_chunks_adds_up() -> None:
    """Units without connections: log Z is a sum of softplus; 13 units are 8,192 states, two chunks."""
    view = machine(20, 13)
    view.weight.data.zero_()
    softplus = torch.nn.functional.softplus
    expected = softplus(view.visible_bias.double()).sum() + softplus(view.hidden_bias.double()).sum()
    torch.testing.assert_close(exact_log_z(view), expected.detach())


def test_exact_log_z_with_gaussian_visible_units_is_an_integral() -> None:
    """One visible unit: exp(-F(v)) summed over a fine grid from -12 to 12."""
    view = machine(1, 3, "gaussian")
    grid = torch.linspace(-12, 12, 20_001)[:, None]
    area = (-view.free_energy(grid).detach().double()).exp().sum() * 24 / 20_000
    assert float(exact_log_z(view)) == pytest.approx(math.log(float(area)), abs=1e-4)


@pytest.mark.parametrize(
    ("visible", "hidden", "kind", "yes"),
    [
        (784, 18, "bernoulli", True),
        (18, 500, "bernoulli", True),
        (784, 19, "bernoulli", False),
        (2, 19, "gaussian", False),
    ],
)
def test_a_small_binary_layer_can_be_enumerated(visible: int, hidden: int, kind: str, yes: bool) -> None:
    assert enumerable(machine(visible, hidden, kind)) is yes


@pytest.mark.parametrize("steps", [29, 1000, 14_500])
def test_betas_rise_from_0_to_1_in_the_papers_stretches(steps: int) -> None:
    found = betas(steps)
    assert len(found) == steps + 1
    assert found[0] == 0
    assert found[-1] == 1
    assert all(a < b for a, b in itertools.pairwise(found))
    assert [sum(b <= end + 1e-9 for b in found[1:]) for end in (0.5, 0.9, 1.0)] == [
        round(steps / 29), round(steps * 9 / 29), steps
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("std", [0.3, 0.7])
def test_the_estimate_is_within_its_spread_of_the_exact_value(kind: str, std: float) -> None:
    view = machine(15, 8, kind, std if kind == "bernoulli" else std / 2)
    base = torch.randn(15) / 2
    found = estimate(view, base, steps=300, chains=200)
    assert 0 < float(found.spread) < 0.5
    assert abs(float(found.log_z - exact_log_z(view))) < float(found.spread)


def test_a_machine_without_connections_is_estimated_without_error() -> None:
    """Every chain has the same weight when the base is the machine itself, so log Z is exact; float32 sums."""
    view = machine(10, 6)
    view.weight.data.zero_()
    view.hidden_bias.data.zero_()
    found = estimate(view, view.visible_bias.detach(), steps=50, chains=4)
    assert float(found.log_z) == pytest.approx(float(exact_log_z(view)), abs=1e-4)
    assert float(found.spread) < 1e-4


def test_more_steps_bring_the_spread_down() -> None:
    view = machine(15, 8, std=1.0)
    spreads = [float(estimate(view, torch.zeros(15), steps, 200).spread) for steps in (29, 1000)]
    assert spreads[1] < spreads[0] / 2


def test_annealed_states_are_samples_of_the_machine() -> None:
    """Means of 4,000 states against those of the exact distribution; a deviation is below 0.008, four are allowed."""
    view = machine(6, 4, std=1.0)
    states: Tensor = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    shares = (-view.free_energy(states).detach()).softmax(0)
    drawn, weights = anneal(view, torch.zeros(6), betas(100), 4000)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(drawn.mean(0), shares @ states, rtol=0, atol=0.032)

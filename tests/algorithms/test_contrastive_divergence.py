"""The hand-written gradient against autograd's, and what the options do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dlrun.algorithms.contrastive_divergence import ContrastiveDivergence
from dlrun.errors import ConfigError
from dlrun.models.rbm import RBM
from dlrun.tasks.annealed_importance import exact_log_z
from tiny import make_updater

LABELS = torch.zeros(0)


def make(kind: str = "bernoulli", lr: float = 0.0, **options: Any) -> tuple[RBM, ContrastiveDivergence]:
    torch.manual_seed(0)
    model = RBM((6,), 4, kind).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model, ContrastiveDivergence(model, make_updater(model, lr), **options)


def data(kind: str = "bernoulli", rows: int = 10) -> Tensor:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 6, generator=source, dtype=torch.float64)
    return (x > 0).double() if kind == "bernoulli" else x


def gradients(model: RBM) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def replayed(model: RBM, x: Tensor, k: int, chains: Tensor | None) -> Tensor:
    """The samples of the negative phase, drawn again with the same random numbers."""
    view = model.view()
    h = torch.bernoulli(view.hidden_mean(x))
    h = h if chains is None else chains
    for _ in range(k):
        v = view.visible_units.sample(view.visible_mean(h))
        h = view.sample_hidden(v)
    return v.detach()


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_gradient_is_that_of_mean_free_energy_of_data_minus_samples(kind: str, k: int, persistent: bool) -> None:
    """In float64, to its rounding."""
    model, algorithm = make(kind, k=k, persistent=persistent, chains=7)
    x = data(kind)
    torch.manual_seed(5)
    algorithm.step((x, LABELS))
    mine = gradients(model)
    torch.manual_seed(5)
    samples = replayed(model, x, k, torch.zeros(7, 4, dtype=torch.float64) if persistent else None)
    model.zero_grad()
    (model(x).mean() - model(samples).mean()).backward()
    assert len(samples) == (7 if persistent else 10)
    assert len(mine) == 3
    for hand, auto in zip(mine, gradients(model), strict=True):
        torch.testing.assert_close(hand, auto)


def test_persistent_chains_go_on_from_where_they_were() -> None:
    _, algorithm = make(persistent=True, chains=50)
    seen = [algorithm.chains.clone()]
    for _ in range(2):
        algorithm.step((data(), LABELS))
        seen.append(algorithm.chains.clone())
    assert not seen[0].any()
    assert seen[1].any()
    assert not torch.equal(seen[1], seen[2])
    assert seen[2].shape == (50, 4)


def test_weight_decay_is_on_the_weights_alone() -> None:
    plain, decayed = make(), make(weight_decay=0.1)
    for model, algorithm in (plain, decayed):
        torch.manual_seed(3)
        algorithm.step((data(), LABELS))
        assert len(gradients(model)) == 3
    more = [b - a for a, b in zip(gradients(plain[0]), gradients(decayed[0]), strict=True)]
    torch.testing.assert_close(more[0], 0.1 * plain[0].weight.detach())
    assert not more[1].any()
    assert not more[2].any()


def test_sparsity_is_the_slope_of_a_cross_entropy() -> None:
    """The guide's penalty, with the activity q of this batch alone (the running mean starts at the target)."""
    plain, sparse = make(), make(sparsity=0.1, sparsity_cost=2.0)
    x = data()
    for _, algorithm in (plain, sparse):
        torch.manual_seed(3)
        algorithm.step((x, LABELS))
    more = [b - a for a, b in zip(gradients(plain[0]), gradients(sparse[0]), strict=True)]
    activity = 0.9 * 0.1 + 0.1 * plain[0].view().hidden_mean(x).detach().mean(0)
    pull = 2.0 * (activity - 0.1)  # slope of -p log q - (1 - p) log(1 - q) on a unit's total input
    torch.testing.assert_close(more[2], pull)
    torch.testing.assert_close(more[0], pull[:, None] * x.mean(0))


def test_a_sparse_machine_has_units_that_are_seldom_on() -> None:
    """After 300 steps with a strong pull the mean activity is nearer to the target of 0.1 than to the data's 0.5."""
    means = []
    for cost in (0.0, 5.0):
        model, algorithm = make(lr=0.05, sparsity=0.1, sparsity_cost=cost)
        for _ in range(300):
            algorithm.step((data(rows=40), LABELS))
        means.append(float(model.view().hidden_mean(data(rows=40)).detach().mean()))
    assert abs(means[1] - 0.1) < 0.05 < abs(means[0] - 0.1)


def exact(model: RBM, x: Tensor) -> float:
    return float((-model(x) - exact_log_z(model.view())).detach().mean())


@pytest.mark.parametrize("persistent", [False, True])
def test_training_raises_the_exact_log_likelihood(persistent: bool) -> None:
    """Two patterns and their noise: from about -6 ln 2 = -4.2 to within 1.2 nats of the patterns' own entropy."""
    torch.manual_seed(0)
    model = RBM((6,), 4)
    algorithm = ContrastiveDivergence(model, make_updater(model, 0.1), persistent=persistent)
    patterns = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(20, 1)
    before = exact(model, patterns)
    for _ in range(400):
        algorithm.step((patterns, LABELS))
    assert before == pytest.approx(-4.16, abs=0.05)
    assert exact(model, patterns) > -1.9  # ln 2 = 0.69 is the best there is


def test_a_resumed_run_goes_on_to_the_same_bits() -> None:
    model, algorithm = make(lr=0.1, persistent=True, sparsity_cost=0.5)
    for _ in range(3):
        algorithm.step((data(), LABELS))
    other, again = make(lr=0.1, persistent=True, sparsity_cost=0.5)
    other.load_state_dict(model.state_dict())
    again.updater.load_state_dict(copy.deepcopy(algorithm.updater.state_dict()))
    again.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    for one in (algorithm, again):
        torch.manual_seed(9)
        one.step((data(), LABELS))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert torch.equal(algorithm.chains, again.chains)


def test_logs_are_the_same_keys_without_gradients() -> None:
    _, algorithm = make()
    found = [algorithm.step((data(), LABELS)) for _ in range(2)]
    assert [list(logs) for logs in found] == [["reconstruction"]] * 2
    assert all(value.ndim == 0 and not value.requires_grad for logs in found for value in logs.values())


@pytest.mark.parametrize("option", [{"k": 0}, {"chains": 0}, {"sparsity": 0.0}, {"sparsity": 1.0}])
def test_numbers_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"algorithm\.{next(iter(option))}="):
        make(**option)

"""The machine's arithmetic against sums over every state, and its units against their definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dlrun.errors import ConfigError
from dlrun.models.rbm import RBM, UNITS, RBMView, base_bias


def machine(visible: int = 4, hidden: int = 3, kind: str = "bernoulli") -> RBM:
    model = RBM((visible,), hidden, kind).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def energy(view: RBMView, v: Tensor, h: Tensor) -> Tensor:
    """The book's energy for every pair of rows: (N, V), (M, H) -> (N, M)."""
    return -(v @ view.visible_bias)[:, None] - (h @ view.hidden_bias)[None] - v @ view.weight.T @ h.T


def test_free_energy_is_the_log_of_the_sum_over_hidden_states() -> None:
    model = machine()
    v, h = states(4), states(3)
    expected = -(-energy(model.view(), v, h)).logsumexp(1)
    torch.testing.assert_close(model(v), expected)  # float64: relative 1e-7


def test_conditional_means_are_those_of_the_joint_distribution() -> None:
    view = machine().view()
    v, h = states(4), states(3)
    joint = (-energy(view, v, h)).exp()
    torch.testing.assert_close(view.hidden_mean(v), joint @ h / joint.sum(1, keepdim=True))
    torch.testing.assert_close(view.visible_mean(h), joint.T @ v / joint.sum(0)[:, None])


def test_an_image_is_flattened_into_visible_units() -> None:
    model = RBM((1, 3, 2), 5)
    assert model.weight.shape == (5, 6)
    x = torch.rand(4, 1, 3, 2)
    assert torch.equal(model(x), model.view().free_energy(x.reshape(4, 6)))


def test_weights_start_small_and_biases_at_zero() -> None:
    """The guide's N(0, 0.01): of 100,000 numbers the deviation is within 2 %."""
    torch.manual_seed(0)
    model = RBM((200,), 500)
    assert model.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(model.weight.mean().item()) < 2e-4
    assert not model.visible_bias.any()
    assert not model.hidden_bias.any()


def test_samples_have_the_conditional_means() -> None:
    """20,000 draws: deviation of a mean at most 0.5 / 141 = 0.0035; four of them allowed."""
    view = machine().view()
    v = states(4)[5].expand(20_000, -1)
    h = view.sample_hidden(v)
    assert set(h.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(h.mean(0), view.hidden_mean(v[:1])[0], rtol=0, atol=0.014)
    drawn = view.visible_units.sample(view.visible_mean(states(3)[6].expand(20_000, -1)))
    torch.testing.assert_close(drawn.mean(0), view.visible_mean(states(3)[6:7])[0], rtol=0, atol=0.014)


def test_gaussian_visible_units_have_noise_of_deviation_one_around_the_input() -> None:
    """40,000 draws: deviations of mean and deviation are 0.005 and 0.0035; four of them allowed."""
    view = machine(kind="gaussian").view()
    h = states(3)[5:6]
    drawn = view.visible_units.sample(view.visible_mean(h.expand(40_000, -1)))
    torch.testing.assert_close(drawn.mean(0), view.down(h)[0], rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), torch.ones(4, dtype=torch.float64), rtol=0, atol=0.015)


def test_gaussian_free_energy_is_a_mixture_of_gaussians() -> None:
    """p(v) is a mixture over the hidden states of unit Gaussians around W' h + b."""
    view = machine(2, 3, "gaussian").view()
    v, h = torch.randn(6, 2, dtype=torch.float64), states(3)
    around = view.down(h)  # (8, 2)
    weight = h @ view.hidden_bias + around.square().sum(1) / 2
    density = weight - (v[:, None] - around[None]).square().sum(2) / 2
    torch.testing.assert_close(-view.free_energy(v), density.logsumexp(1))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_log_partition_has_the_mean_as_its_slope(kind: str) -> None:
    units = UNITS[kind]
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(units.log_partition(x).sum(), x)
    torch.testing.assert_close(slope, units.mean(x.detach()))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_log_ratio_is_the_difference_of_two_log_partitions(kind: str) -> None:
    units = UNITS[kind]
    x, y = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(units.log_ratio(x, y), units.log_partition(x) - units.log_partition(y))


def test_doubled_inputs_leave_the_biases_alone() -> None:
    view = machine().view()
    twice = RBMView(view.weight, view.visible_bias, view.hidden_bias, up_scale=2.0, down_scale=2.0)
    v, h = states(4), states(3)
    torch.testing.assert_close(twice.up(v), 2 * v @ view.weight.T + view.hidden_bias)
    torch.testing.assert_close(twice.down(h), 2 * h @ view.weight + view.visible_bias)


def batches(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part in rows.split(3):
        yield part, torch.zeros(len(part))


def test_prepare_gives_units_without_connections_the_means_of_the_data() -> None:
    rows = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    model = RBM((3,), 2)
    model.prepare(lambda: batches(rows))
    expected = torch.tensor([1 / 6, 5 / 6, 3 / 6])  # (n + 1) / (N + 2)
    torch.testing.assert_close(model.visible_bias.sigmoid(), expected)
    torch.testing.assert_close(base_bias(lambda: batches(rows - 0.3), "gaussian"), rows.mean(0) - 0.3)


def test_gaussian_units_refuse_binary_values() -> None:
    rows = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    with pytest.raises(ConfigError, match=r"data\.pixels=standard"):
        base_bias(lambda: batches(rows), "gaussian")


@pytest.mark.parametrize("value", [-0.5, 1.5, math.nan])
def test_values_that_are_no_shares_are_refused_for_binary_units(value: float) -> None:
    rows = torch.full((4, 3), value)
    with pytest.raises(ConfigError, match=r"data\.pixels=binary"):
        RBM((3,), 2).prepare(lambda: batches(rows))


@pytest.mark.parametrize(
    ("arguments", "words"), [({"hidden": 0}, "model.hidden=500"), ({"visible": "gausian"}, "did you mean 'gaussian'")]
)
def test_what_cannot_work_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RBM((4,), **arguments)  # type: ignore[arg-type]
    assert words in str(caught.value)

"""Deep Boltzmann machine and deep belief network: mean field, doubled inputs, and what cannot work."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.dbm import DBM, visible_biases
from dlrun.models.dbn import DBN


def deep(**options: Any) -> DBM:
    torch.manual_seed(0)
    model = DBM((4,), 2, **({"hidden": (3, 2)} | options)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def test_mean_field_converges_to_a_fixed_point_of_its_equations() -> None:
    model = deep(iterations=200)
    v = torch.rand(5, 4, dtype=torch.float64)
    h1, h2 = model.posterior(v)
    w1, w2 = model.layers[0].weight, model.layers[1].weight
    torch.testing.assert_close(h1, torch.sigmoid(v @ w1.T + h2 @ w2 + model.layers[0].bias))
    torch.testing.assert_close(h2, torch.sigmoid(h1 @ w2.T + model.layers[1].bias))


def test_mean_field_is_near_the_exact_posterior_when_weights_are_small() -> None:
    """With weights of deviation 0.3 the hidden units are nearly independent; the means agree to 0.01."""
    model = deep(iterations=50)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(0.3 / 0.7)
    v = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    h1, h2 = states(3).repeat_interleave(4, 0), states(2).repeat(8, 1)
    first, second = model.layers
    energy = -(h1 @ (first.weight @ v[0] + first.bias)) - h2 @ second.bias - ((h2 @ second.weight) * h1).sum(1)
    posterior = (-energy).softmax(0)
    means = model.posterior(v)
    torch.testing.assert_close(means[0][0], posterior @ h1, rtol=0, atol=0.01)
    torch.testing.assert_close(means[1][0], posterior @ h2, rtol=0, atol=0.01)


def test_the_first_pass_is_the_stacks_features() -> None:
    """Before any sweep the means are what layer-wise pretraining has seen: up through the doubled machines."""
    model = deep(hidden=(3, 3, 2), iterations=0)
    v = torch.rand(5, 4, dtype=torch.float64)
    features = v
    for view, means in zip(model.stack(), model.posterior(v), strict=True):
        features = view.hidden_mean(features)
        torch.testing.assert_close(means, features)


def test_a_layer_that_ends_up_between_two_counts_its_neighbours_double() -> None:
    scales = [(view.up_scale, view.down_scale) for view in deep(hidden=(3, 3, 2)).stack()]
    assert scales == [(2.0, 1.0), (2.0, 2.0), (1.0, 2.0)]
    assert [(view.up_scale, view.down_scale) for view in DBN((4,), 2, hidden=(3, 2)).stack()] == [(1.0, 1.0)] * 2


def test_the_stacks_tensors_are_the_models_own() -> None:
    model = deep()
    view = model.stack()[1]
    with torch.no_grad():
        view.weight.fill_(7.0)
        view.visible_bias.fill_(8.0)
    assert (model.layers[1].weight == 7).all()
    assert (model.visible_bias_1 == 8).all()


def test_put_together_a_middle_layer_has_the_mean_of_its_two_biases() -> None:
    model = deep()
    visible_biases(model)[1].fill_(4.0)
    before = [layer.bias.detach().clone() for layer in model.layers]
    model.unroll_stack()
    torch.testing.assert_close(model.layers[0].bias.detach(), (before[0] + 4) / 2)
    assert torch.equal(model.layers[1].bias, before[1])


def test_output_is_linear_in_the_top_layers_means() -> None:
    model = deep()
    x = torch.rand(5, 4, dtype=torch.float64)
    expected = model.posterior(x)[-1] @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(x), expected)


def test_dropped_units_stay_off_in_every_sweep() -> None:
    model = deep(hidden=(30, 30), iterations=3, dropout=0.5).train()
    for means in model.posterior(torch.rand(5, 4, dtype=torch.float64)):
        assert 0.2 < float((means == 0).double().mean()) < 0.8
        assert float(means.max().detach()) > 1  # those that stay count twice


def test_a_belief_network_is_sigmoid_layers() -> None:
    model = DBN((1, 2, 2), 3, hidden=(5, 4))
    first, second = model.layers
    x = torch.rand(6, 1, 2, 2)
    expected = model.output(torch.sigmoid(second(torch.sigmoid(first(x.flatten(1))))))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("make", [DBM, DBN])
def test_visible_biases_start_at_the_means_of_the_data_and_values_that_are_no_shares_are_refused(make: Any) -> None:
    model = make((3,), 2, hidden=(4, 2))
    rows = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]])
    model.prepare(lambda: [(rows, torch.zeros(2))])
    torch.testing.assert_close(model.visible_bias_0.sigmoid(), (rows.sum(0) + 1) / 4)
    with pytest.raises(ConfigError, match=r"data\.pixels"):
        model.prepare(lambda: [(rows - 3, torch.zeros(2))])


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (DBM, {"hidden": (5,)}, "at least 2 layers"),
        (DBM, {"hidden": (5, 0)}, "units in each"),
        (DBN, {"hidden": ()}, "at least 1 layers"),
        (DBM, {"iterations": -1}, "model.iterations=-1"),
        (DBM, {"dropout": 1.0}, "model.dropout=1.0"),
        (DBN, {"input_dropout": -0.1}, "model.input_dropout=-0.1"),
    ],
)
def test_what_cannot_work_is_refused(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make((4,), 2, **options)
    assert words in str(caught.value)

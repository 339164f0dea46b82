"""Learnt layers as the first layers of another network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.cnn import CNN
from dlrun.models.dbm import DBM
from dlrun.models.dbn import DBN
from dlrun.models.init_from import initialise
from dlrun.models.mlp import MLP
from dlrun.models.rbm import RBM


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def test_a_perceptron_starts_with_a_machines_features() -> None:
    machine, model = RBM((1, 3, 2), 5), MLP((1, 3, 2), 4, nn.Sigmoid, hidden=[5, 7])
    nn.init.normal_(machine.hidden_bias)
    later = [layer.weight.clone() for layer in linears(model)[1:]]
    said = initialise(model, machine.state_dict())
    first = linears(model)[0]
    assert torch.equal(first.weight, machine.weight)
    assert torch.equal(first.bias, machine.hidden_bias)
    assert all(torch.equal(a.weight, b) for a, b in zip(linears(model)[1:], later, strict=True))
    assert said == ["layer 'hidden.0' (6 to 5 units) starts as 'weight' of the trained network"]
    x = torch.rand(3, 1, 3, 2)
    torch.testing.assert_close(model.hidden[:2](x.flatten(1)), machine.view().hidden_mean(x.flatten(1)))


@pytest.mark.parametrize("make", [DBM, DBN])
def test_a_deep_network_gives_every_layer_that_fits(make: type[DBM] | type[DBN]) -> None:
    deep, model = make((6,), 3, hidden=(5, 4)), MLP((6,), 3, nn.Sigmoid, hidden=[5, 4, 9])
    said = initialise(model, deep.state_dict())
    assert len(said) == 2
    for source, layer in zip(linears(deep)[:2], linears(model), strict=False):
        assert torch.equal(source.weight, layer.weight)


def test_copying_stops_at_the_first_layer_that_does_not_fit_and_before_the_output() -> None:
    deep = DBN((6,), 3, hidden=(5, 4))
    model = MLP((6,), 3, nn.Sigmoid, hidden=[5, 8])
    assert len(initialise(model, deep.state_dict())) == 1
    twin = DBN((6,), 3, hidden=(5, 4))
    before = twin.output.weight.clone()
    assert len(initialise(twin, deep.state_dict())) == 2
    assert torch.equal(twin.output.weight, before)


def test_where_nothing_fits_it_says_what_would() -> None:
    state = RBM((6,), 5).state_dict()
    with pytest.raises(ConfigError, match=r"6 inputs and 5 units, but the one here is 6 to 8; .*model.hidden=\[5\]"):
        initialise(MLP((6,), 3, nn.ReLU, hidden=[8]), state)
    with pytest.raises(ConfigError, match="none before the output"):
        initialise(MLP((6,), 3, nn.ReLU, hidden=[]), state)
    with pytest.raises(ConfigError, match="no fully connected layer"):
        initialise(MLP((6,), 3, nn.ReLU, hidden=[8]), nn.Sequential(nn.Conv2d(1, 2, 3)).state_dict())


def test_convolutions_before_the_fully_connected_layers_are_passed_over() -> None:
    model = CNN((1, 8, 8), 3, nn.ReLU, channels=[2], hidden=[5])
    assert len(initialise(model, RBM((32,), 5).state_dict())) == 1

"""Networks side by side in one buffer, each still an ordinary network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dlrun.packing.flat import Unpackable
from dlrun.packing.stack import Stack


def networks(count: int = 3) -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(count)]


def stacked(models: list[nn.Module]) -> Stack:
    return Stack(models, [list(model.parameters()) for model in models])


def test_every_network_has_the_weights_it_had() -> None:
    models = networks()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    stack = stacked(models)
    assert stack.weights.shape == (3, sum(p.numel() for p in models[0].parameters()))
    assert len(stack) == 3
    for model, state in zip(models, before, strict=True):
        found = model.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_the_networks_look_into_the_stack() -> None:
    models = networks()
    stack = stacked(models)
    stack.weights[1].fill_(0.25)
    stack.fixed["1.running_mean"][2] = 7.0
    assert all(bool((p == 0.25).all()) for p in models[1].parameters())
    assert not bool((models[0].get_parameter("0.weight") == 0.25).any())
    assert models[2].get_buffer("1.running_mean").tolist() == [7.0] * 5
    assert models[0].get_buffer("1.running_mean").tolist() == [0.0] * 5
    with torch.no_grad():
        models[0].get_parameter("3.bias")[1] = 9.0
    assert stack.leaves[-1][0].tolist()[1] == 9.0
    assert [leaf.shape[0] for leaf in stack.leaves] == [3] * 6


def test_a_network_is_loaded_through_its_view() -> None:
    """As ``dlrun.run.finish`` does with the best one."""
    models = networks()
    stack = stacked(models)
    other = {name: torch.full_like(tensor, 3) for name, tensor in models[0].state_dict().items()}
    models[0].load_state_dict(other)
    assert bool((stack.weights[0] == 3).all())
    assert not bool((stack.weights[1] == 3).any())


def test_gradients_are_seen_once_there_are_some() -> None:
    models = networks(2)
    stack = stacked(models)
    assert all(p.grad is None for p in models[0].parameters())
    stack.gradients[1] = 2.0
    stack.show_gradients()
    assert all(p.grad is not None and bool((p.grad == 2).all()) for p in models[1].parameters())


def test_parameters_that_are_not_trained_are_kept_beside() -> None:
    models = networks(2)
    for model in models:
        model.get_parameter("0.weight").requires_grad_(False)
    stack = Stack(models, [[p for p in model.parameters() if p.requires_grad] for model in models])
    assert "0.weight" not in stack.names
    assert stack.fixed["0.weight"].shape == (2, 5, 4)
    assert torch.equal(stack.fixed["0.weight"][1], models[1].get_parameter("0.weight"))
    assert stack.weights.shape[1] == sum(p.numel() for p in models[0].parameters()) - 20


def test_dropped_networks_keep_what_they_had_in_memory_of_their_own() -> None:
    models = networks()
    stack = stacked(models)
    stack.show_gradients()
    memory = stack.weights.untyped_storage().data_ptr()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    stack.keep([0, 2])
    stack.weights.add_(1.0)
    stack.fixed["1.running_var"].add_(1.0)
    stack.gradients.fill_(5.0)
    assert len(stack) == 2
    dropped = models[1].state_dict()
    assert all(torch.equal(dropped[name], tensor) for name, tensor in before[1].items())
    for model, state in ((models[0], before[0]), (models[2], before[2])):
        assert torch.allclose(model.get_parameter("0.weight"), state["0.weight"] + 1)
        assert torch.allclose(model.get_buffer("1.running_var"), state["1.running_var"] + 1)
        gradient = model.get_parameter("3.bias").grad
        assert gradient is not None
        assert gradient.tolist() == [5.0, 5.0]
    for parameter in models[1].parameters():
        assert parameter.grad is None
        assert parameter.untyped_storage().data_ptr() != memory
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


def test_other_shapes_types_and_counts_are_refused() -> None:
    with pytest.raises(Unpackable, match=r"0\.weight is .*\(5, 4\).* in one and .*\(6, 4\)"):
        stacked([nn.Sequential(nn.Linear(4, 5)), nn.Sequential(nn.Linear(4, 6))])
    with pytest.raises(Unpackable, match=r"float32.*float64"):
        stacked([nn.Linear(2, 2), nn.Linear(2, 2).double()])
    with pytest.raises(Unpackable, match=r"1\.weight is None in one"):
        stacked([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))])
    two = [nn.Linear(2, 2), nn.Linear(2, 2)]
    with pytest.raises(Unpackable, match="different numbers of trainable"):
        Stack(two, [list(two[0].parameters()), [two[1].weight]])
    mixed = [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()) for _ in range(2)]
    with pytest.raises(Unpackable, match="several number formats"):
        stacked(mixed)

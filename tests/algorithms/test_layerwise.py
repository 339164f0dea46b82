"""Each layer in its turn, then the whole network; resumed anywhere to the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.algorithms import Phased
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.algorithms.contrastive_divergence import ContrastiveDivergence
from dlrun.algorithms.layerwise import Layerwise
from dlrun.errors import ConfigError
from dlrun.losses import MeanSquaredError
from dlrun.models.dbm import DBM
from dlrun.models.dbn import DBN
from dlrun.models.rbm import RBM
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from tiny import FACTS, make_updater

TASK = Regression(MeanSquaredError(), FACTS, standardize=False)
BATCH = ((torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float(), torch.ones(20, 1))


def make(model: nn.Module | None = None, steps: int = 3, lr: float = 0.1, **options: Any) -> tuple[Any, Layerwise]:
    torch.manual_seed(0)
    model = model or DBN((6,), 1, hidden=(5, 4))
    return model, Layerwise(model, TASK, make_updater(model, lr), Precision(), steps_per_layer=steps, **options)


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def test_the_layers_learn_one_after_the_other_and_then_all_together() -> None:
    model, algorithm = make()
    first = {"layers.0.weight", "layers.0.bias", "visible_bias_0"}
    second = {"layers.1.weight", "layers.1.bias", "visible_bias_1"}
    whole = {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "output.weight", "output.bias"}
    for expected in (first, first, first, second, second, second, whole, whole):
        before = copied(model)
        algorithm.step(BATCH)
        assert moved(before, model) == expected


def test_one_step_of_the_first_layer_is_contrastive_divergence_on_a_machine_of_its_own() -> None:
    """Of the random numbers only the hidden states are drawn: the reconstruction is a mean."""
    model, algorithm = make(rate=0.1, momentum=0.0, weight_decay=0.01)
    view, x = model.stack()[0], BATCH[0]
    old = [part.detach().clone() for part in (view.weight, view.visible_bias, view.hidden_bias)]
    torch.manual_seed(7)
    hidden = view.hidden_mean(x).detach()
    dreamt = view.visible_mean(torch.bernoulli(hidden)).detach()
    again = view.hidden_mean(dreamt).detach()
    torch.manual_seed(7)
    logs = algorithm.step(BATCH)
    weight = old[0] + 0.1 * ((hidden.T @ x - again.T @ dreamt) / len(x) - 0.01 * old[0])
    torch.testing.assert_close(model.layers[0].weight.detach(), weight)
    torch.testing.assert_close(model.visible_bias_0, old[1] + 0.1 * (x - dreamt).mean(0))
    torch.testing.assert_close(model.layers[0].bias.detach(), old[2] + 0.1 * (hidden - again).mean(0))
    torch.testing.assert_close(logs["reconstruction"], (x - dreamt).square().sum(1).mean())


def test_pretraining_learns_to_reconstruct() -> None:
    """Two patterns: a machine that knows nothing is off by about 6 / 4 = 1.5."""
    patterns = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(20, 1)
    _, algorithm = make(steps=200)
    found = [float(algorithm.step((patterns, torch.ones(40, 1)))["reconstruction"]) for _ in range(200)]
    assert found[0] == pytest.approx(1.5, abs=0.1)
    assert found[-1] < 0.3


def test_velocity_is_carried_from_step_to_step() -> None:
    with_momentum, without = make(momentum=0.9), make(momentum=0.0)
    for _, algorithm in (with_momentum, without):
        torch.manual_seed(1)
        algorithm.step(BATCH)
    assert torch.equal(with_momentum[0].layers[0].weight, without[0].layers[0].weight)
    for _, algorithm in (with_momentum, without):
        torch.manual_seed(2)
        algorithm.step(BATCH)
    assert not torch.equal(with_momentum[0].layers[0].weight, without[0].layers[0].weight)


def test_afterwards_it_is_backpropagation() -> None:
    model, algorithm = make(steps=0)
    other = copy.deepcopy(model)
    plain = Backpropagation(other, TASK, make_updater(other), Precision())
    for _ in range(3):
        assert torch.equal(algorithm.step(BATCH)["loss"], plain.step(BATCH)["loss"])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_stack_is_unrolled_once_and_only_after_pretraining() -> None:
    model, algorithm = make(DBM((6,), 1, hidden=(5, 4)), steps=2, lr=0.0)
    for _ in range(4):
        algorithm.step(BATCH)
    expected = (model.layers[0].bias + model.visible_bias_1).detach() / 2
    for _ in range(2):
        algorithm.step(BATCH)
        torch.testing.assert_close(model.layers[0].bias.detach(), expected)


def test_without_pretraining_nothing_is_unrolled() -> None:
    model, algorithm = make(DBM((6,), 1, hidden=(5, 4)), steps=0, lr=0.0)
    before = copied(model)
    algorithm.step(BATCH)
    assert moved(before, model) == set()


@pytest.mark.parametrize("stop", range(1, 8))
def test_resumed_anywhere_it_goes_on_to_the_same_bits(stop: int) -> None:
    model, algorithm = make(DBM((6,), 1, hidden=(5, 4), dropout=0.5), k=2)
    for _ in range(stop):
        algorithm.step(BATCH)
    state = copy.deepcopy((model.state_dict(), algorithm.updater.state_dict(), algorithm.state_dict()))
    random = torch.get_rng_state()
    expected = [algorithm.step(BATCH) for _ in range(4)]
    other, again = make(DBM((6,), 1, hidden=(5, 4), dropout=0.5), k=2)
    other.load_state_dict(state[0])
    again.updater.load_state_dict(state[1])
    again.load_state_dict(state[2])
    torch.set_rng_state(random)
    found = [again.step(BATCH) for _ in range(4)]
    assert [{n: v.tolist() for n, v in logs.items()} for logs in found] == [
        {n: v.tolist() for n, v in logs.items()} for logs in expected
    ]
    assert moved(copied(model), other) == set()


def test_every_step_logs_the_same_names_without_gradients() -> None:
    _, algorithm = make()
    found = [algorithm.step(BATCH) for _ in range(8)]
    assert all(set(logs) == {"loss", "reconstruction"} for logs in found)
    assert all(value.ndim == 0 and not value.requires_grad for logs in found for value in logs.values())
    assert len({float(logs["loss"]) for logs in found[:3]}) == 1  # as it was when the layer's turn began
    assert len({float(logs["reconstruction"]) for logs in found[5:]}) == 1  # the last layer's last


def test_gaussian_hidden_units_learn_at_a_hundredth_of_the_rate() -> None:
    class Coder(nn.Module):
        def __init__(self, hidden: str) -> None:
            super().__init__()
            self.machine = RBM((6,), 4)
            self.hidden = hidden

        def stack(self) -> list[Any]:
            view = self.machine.view()
            return [type(view)(view.weight, view.visible_bias, view.hidden_bias, "bernoulli", self.hidden)]

        def forward(self, x: Tensor) -> Tensor:
            return self.machine(x)[:, None]

    steps = {}
    for kind in ("bernoulli", "gaussian"):
        torch.manual_seed(0)
        model, algorithm = make(Coder(kind), rate=1.0, weight_decay=0.0)
        bias = model.machine.visible_bias.detach().clone()
        algorithm.step(BATCH)
        steps[kind] = float((model.machine.visible_bias.detach() - bias).norm())
    assert steps["gaussian"] == pytest.approx(steps["bernoulli"] / 100, rel=0.3)


def test_an_algorithm_of_density_asks_for_a_view_and_this_one_for_a_stack() -> None:
    assert (ContrastiveDivergence.requires, Layerwise.requires) == (("view",), ("stack",))


@pytest.mark.parametrize("option", [{"steps": -1}, {"k": 0}])
def test_numbers_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be at least 0 and 1"):
        make(**option)


def test_the_phase_names_the_layer_that_learns_and_nothing_where_a_turn_begins() -> None:
    _, algorithm = make()
    assert isinstance(algorithm, Phased)
    foreseen = [algorithm.phase(ahead) for ahead in range(9)]
    assert foreseen == [None, 0, 0, None, 1, 1, None, -1, -1]
    for expected in foreseen:
        assert algorithm.phase(0) == expected
        algorithm.step(BATCH)
    algorithm.done = 0
    algorithm.count(4)
    assert algorithm.phase(0) == 1


def test_without_pretraining_the_first_step_alone_is_its_own_kind() -> None:
    _, algorithm = make(steps=0)
    assert [algorithm.phase(ahead) for ahead in range(3)] == [None, -1, -1]

"""What every algorithm shows of itself: the network that it trains, and each of its updaters."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import family_cases as cases
from dlrun.algorithms import updaters
from dlrun.build import check
from dlrun.config import compose
from dlrun.training.updater import Updaters
from tiny import make_updater

WORDS = {
    "backpropagation": ["model=mlp"],
    "closure": ["model=mlp", "optimizer=lbfgs"],
    "accumulation": ["model=mlp", "trainer.accumulate=2"],
    "truncated backpropagation": ["model=lstm", *cases.TEXT, "algorithm=truncated_backpropagation"],
    "contrastive divergence": ["model=rbm"],
    "layerwise": ["model=dbn", "model.hidden=[6]"],
    "adversarial": ["model=gan"],
}
SEVERAL = {"adversarial": ["generator", "discriminator"]}


@pytest.mark.parametrize("name", WORDS)
def test_the_network_is_the_one_it_was_built_with_and_each_updater_moves_its_part(name: str) -> None:
    experiment = check(compose([*WORDS[name], "trainer.device=cpu"]))
    model = experiment.model()
    algorithm: Any = experiment.algorithm(model)
    assert algorithm.model is model
    found = updaters(algorithm)
    assert list(found) == SEVERAL.get(name, [""])
    assert [p for updater in found.values() for p in updater.parameters] == algorithm.updater.parameters
    for part, updater in found.items():
        network = getattr(model, part) if part else model
        assert {id(p) for p in updater.parameters} <= {id(p) for p in network.parameters()}
    if len(found) == 1:
        assert found[""] is algorithm.updater


def test_an_updater_without_a_name_is_numbered() -> None:
    class Nameless:
        def __init__(self) -> None:
            self.first_updater = make_updater(nn.Linear(1, 1))
            self.updater = Updaters([make_updater(nn.Linear(1, 1)), self.first_updater])

    algorithm: Any = Nameless()
    assert updaters(algorithm) == {"network 1": algorithm.updater.parts[0], "first": algorithm.first_updater}

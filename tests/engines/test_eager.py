"""The inert engine."""

from __future__ import annotations

from torch import nn

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.engines.eager import Eager
from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from tiny import FACTS, make_updater


def test_the_step_is_the_algorithm_s_own() -> None:
    model = nn.Linear(3, 1)
    algorithm = Backpropagation(model, Regression(MeanSquaredError(), FACTS), make_updater(model), Precision())
    assert Eager().prepare(algorithm) == algorithm.step

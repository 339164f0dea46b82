"""The gradient of the pieces is the gradient of the whole, also where the batch does not divide."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dlrun.algorithms.accumulation import Accumulation
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from dlrun.training.updater import ClipByNorm
from tiny import FACTS, make_updater


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(("examples", "pieces"), [(8, 2), (8, 4), (7, 2), (7, 3), (10, 4), (5, 5), (3, 8), (1, 4)])
def test_pieces_give_the_gradient_of_the_whole_batch(examples: int, pieces: int, clipped: bool) -> None:
    whole = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    cut = copy.deepcopy(whole)
    batch = torch.randn(examples, 3).double(), torch.randn(examples, 1).double()
    task = Regression(MeanSquaredError(), FACTS, standardize=False)
    clips = [ClipByNorm(0.01)] if clipped else []
    first, second = make_updater(whole, clips=clips), make_updater(cut, clips=clips)
    expected = Backpropagation(whole, task, first, Precision()).step(batch)
    found = Accumulation(Backpropagation(cut, task, second, Precision()), second, pieces).step(batch)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=0, atol=1e-12)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(b, a, rtol=0, atol=1e-12)


def test_no_piece_is_larger_than_its_share() -> None:
    model, task = nn.Linear(3, 1), Regression(MeanSquaredError(), FACTS)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    updater = make_updater(model)
    Accumulation(Backpropagation(model, task, updater, Precision()), updater, 3).step(
        (torch.randn(10, 3), torch.randn(10, 1))
    )
    assert seen == [4, 4, 2]


def test_each_step_starts_from_no_gradient() -> None:
    model, task = nn.Linear(3, 1), Regression(MeanSquaredError(), FACTS)
    updater = make_updater(model, lr=0.0)
    algorithm = Accumulation(Backpropagation(model, task, updater, Precision()), updater, 2)
    batch = torch.randn(4, 3), torch.randn(4, 1)
    algorithm.step(batch)
    once = model.weight.grad.clone()  # type: ignore[union-attr]
    algorithm.step(batch)
    assert torch.equal(model.weight.grad, once)  # type: ignore[arg-type]

"""One step of the algorithm against the five lines of the textbook, bit for bit."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from tiny import FACTS, make_updater


def parts() -> tuple[nn.Module, Regression, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, Regression(MeanSquaredError(), FACTS, standardize=False), torch.randn(8, 3), torch.randn(8, 1)


def test_three_steps_equal_the_textbook_bit_for_bit() -> None:
    model, task, x, y = parts()
    other = copy.deepcopy(model)
    algorithm = Backpropagation(model, task, make_updater(model), Precision())
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.5)
    for _ in range(3):
        logs = algorithm.step((x, y))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(other(x), y)
        loss.backward()
        optimizer.step()
        assert torch.equal(logs["loss"], loss.detach())
    for mine, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, expected)
        assert torch.equal(mine.grad, expected.grad)  # type: ignore[arg-type]


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Central differences in float64 at an error of the order of the shift squared."""
    model, task, x, y = parts()
    model, batch = model.double(), (x.double(), y.double())
    still = make_updater(model, lr=0.0)  # a step that leaves the weights where they are
    Backpropagation(model, task, still, Precision()).step(batch)
    with torch.no_grad():
        for parameter in model.parameters():
            flat, slope = parameter.view(-1), parameter.grad.view(-1)  # type: ignore[union-attr]
            for i in range(len(flat)):
                kept, losses = float(flat[i]), []
                for shift in (1e-5, -1e-5):
                    flat[i] = kept + shift
                    losses.append(float(task.loss(model, batch)[0]))
                flat[i] = kept
                assert abs((losses[0] - losses[1]) / 2e-5 - float(slope[i])) < 1e-8


def test_the_forward_pass_is_in_the_chosen_precision() -> None:
    model, task, x, y = parts()
    seen: list[torch.dtype] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    Backpropagation(model, task, make_updater(model), Precision("bfloat16")).step((x, y))
    assert seen == [torch.bfloat16]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())  # type: ignore[union-attr]

"""L-BFGS on a quadratic, whose minimum is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.algorithms.closure import Closure
from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater
from tiny import FACTS


def lbfgs(model: nn.Module, *clips: object, **more: object) -> Closure:
    optimizer = torch.optim.LBFGS(model.parameters(), **more)  # type: ignore[arg-type]
    updater = Updater(optimizer, torch.amp.GradScaler("cpu", enabled=False), clips)  # type: ignore[arg-type]
    return Closure(model, Regression(MeanSquaredError(), FACTS, standardize=False), updater, Precision())


def test_a_quadratic_is_brought_to_its_minimum() -> None:
    model = nn.Linear(3, 1).double()
    x, noise = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    y = x @ torch.tensor([[1.0], [2.0], [3.0]]).double() + 4 + 0.1 * noise
    algorithm = lbfgs(model, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=0)
    losses = [float(algorithm.step((x, y))["loss"]) for _ in range(6)]
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(20, 1).double()], 1), y).solution
    torch.testing.assert_close(model.weight.detach().flatten(), solution[:3, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.bias.detach(), solution[3:, 0], rtol=0, atol=1e-6)
    assert losses[-1] < 1e-2 < losses[0]


def test_the_logs_are_of_the_weights_before_the_step() -> None:
    model = nn.Linear(3, 1)
    batch = torch.randn(8, 3), torch.randn(8, 1)
    before = float(nn.functional.mse_loss(model(batch[0]), batch[1]).detach())
    algorithm = lbfgs(model)
    logs = algorithm.step(batch)
    assert float(logs["loss"]) == before
    assert not logs["loss"].requires_grad
    assert float(nn.functional.mse_loss(model(batch[0]), batch[1]).detach()) < before


def test_every_gradient_is_clipped() -> None:
    calls: list[int] = []

    def count(parameters: list[Tensor]) -> None:
        calls.append(len(parameters))

    model = nn.Linear(3, 1)
    lbfgs(model, count, max_iter=4).step((torch.randn(8, 3), torch.randn(8, 1)))
    assert len(calls) > 1
    assert set(calls) == {2}


def test_it_says_what_it_cannot_go_with() -> None:
    assert not Closure.in_pieces
    assert not Closure.scaled_loss

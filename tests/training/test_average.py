"""The moving average against its formula written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.training.average import ExponentialAverage, NoAverage


def test_five_steps_by_hand() -> None:
    model = nn.Linear(2, 1).double()
    average = ExponentialAverage(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(5):
        model.weight.data += step + 1
        average.update()
        expected = 0.9 * expected + 0.1 * model.weight.detach()
    torch.testing.assert_close(average.weights[0], expected, rtol=1e-14, atol=1e-14)


def test_the_weights_come_back_even_after_an_error() -> None:
    model = nn.Linear(2, 1)
    average = ExponentialAverage(model, 0.5)
    model.weight.data += 1
    average.update()
    trained, held = model.weight.detach().clone(), average.weights[0].clone()
    inside: list[torch.Tensor] = []

    def fails() -> None:
        with average.applied():
            inside.append(model.weight.detach().clone())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fails()
    assert torch.equal(inside[0], held)
    assert torch.equal(model.weight, trained)
    assert torch.equal(average.weights[0], held)


def test_the_optimizer_still_owns_the_weights_after_a_swap() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = ExponentialAverage(model, 0.5)
    with average.applied():
        pass
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before - 1)


def test_buffers_are_those_of_training() -> None:
    model = nn.BatchNorm1d(2)
    average = ExponentialAverage(model, 0.5)
    model(torch.randn(8, 2))
    average.update()
    running = model.running_mean.clone()  # type: ignore[union-attr]
    with average.applied():
        assert torch.equal(model.running_mean, running)  # type: ignore[arg-type]


def test_the_state_makes_a_round_trip() -> None:
    model = nn.Linear(2, 1)
    average, other = ExponentialAverage(model, 0.5), ExponentialAverage(nn.Linear(2, 1), 0.5)
    model.weight.data += 1
    average.update()
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(average.weights, other.weights, strict=True))
    with pytest.raises(ValueError, match="shorter"):
        other.load_state_dict({"weights": average.weights[:1]})


def test_no_average_is_inert() -> None:
    average = NoAverage()
    average.update()
    with average.applied():
        pass
    average.load_state_dict(average.state_dict())
    assert average.state_dict() == {}

"""Elman's cell against its formula, and a memory of one step."""

from __future__ import annotations

import pytest
import torch

from dlrun.errors import ConfigError
from dlrun.models.recurrent import write_out
from dlrun.models.rnn import RNN, relu_step, tanh_step


def test_one_step_by_hand() -> None:
    total = torch.tensor([[0.5, -2.0]])
    (h,) = tanh_step(total, torch.tensor([[0.5, 1.0]]), (torch.zeros(1, 2),))
    torch.testing.assert_close(h, torch.tensor([[0.76159416, -0.76159416]]))
    (h,) = relu_step(total, torch.tensor([[0.5, 1.0]]), (torch.zeros(1, 2),))
    assert h.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written out"])
def test_the_nonlinearity_is_the_chosen_one(fused: bool) -> None:
    """The rectifier's outputs reach past 1 and never below 0; the other's stay within 1."""
    model = RNN((5, 2), (3,), hidden=8, nonlinearity="relu")
    bounded = RNN((5, 2), (3,), hidden=8, nonlinearity="tanh")
    if not fused:
        write_out(model)
        write_out(bounded)
    x = 20 * torch.randn(4, 5, 2)
    outputs, _ = model.stack(x, None, None)
    assert outputs.min() == 0
    assert outputs.max() > 1
    outputs, _ = bounded.stack(x, None, None)
    assert outputs.min() < 0
    assert outputs.abs().max() <= 1


def test_an_unknown_nonlinearity_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tanh'"):
        RNN((5, 2), (3,), nonlinearity="tan")


def test_learns_to_repeat_what_it_read_a_step_ago() -> None:
    """Without a memory the loss stays at ln 2 = 0.69; 0.07 is left by the first step, which has nothing before it."""
    model = RNN((10,), (10, 2), vocabulary=2, per_step=True, hidden=8, embedding=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        text = torch.randint(2, (32, 11))
        loss = torch.nn.functional.cross_entropy(model(text[:, 1:]).flatten(0, 1), text[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2

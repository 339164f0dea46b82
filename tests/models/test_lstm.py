"""The memory cell's arithmetic at the ends of its gates, and a memory over several steps."""

from __future__ import annotations

import torch

from dlrun.models.lstm import LSTM, lstm_step

OPEN, SHUT = 50.0, -50.0  # the logistic function is 1 and 0 there
NOTHING = torch.zeros(1, 4)
STATE = (torch.tensor([[0.9]]), torch.tensor([[0.3]]))


def gates(enter: float, forget: float, content: float, leave: float) -> torch.Tensor:
    return torch.tensor([[enter, forget, content, leave]])


def test_a_closed_cell_keeps_its_content_and_says_nothing() -> None:
    h, c = lstm_step(gates(SHUT, OPEN, 9.0, SHUT), NOTHING, STATE)
    torch.testing.assert_close(c, torch.tensor([[0.3]]))
    assert h.abs() < 1e-6


def test_a_cell_that_forgets_takes_the_new_content() -> None:
    h, c = lstm_step(gates(OPEN, SHUT, 0.5, OPEN), NOTHING, STATE)
    torch.testing.assert_close(c, torch.tensor([[0.5]]).tanh())
    torch.testing.assert_close(h, c.tanh())


def test_the_last_output_acts_as_the_input_does() -> None:
    a, b = gates(0.1, 0.2, 0.3, 0.4), gates(-1.0, 0.5, 0.2, 2.0)
    for one, other in zip(lstm_step(a, b, STATE), lstm_step(b, a, STATE), strict=True):
        torch.testing.assert_close(one, other)


def test_remembers_the_first_of_six_values() -> None:
    """The sign of the first value; guessing gives ln 2 = 0.69."""
    model = LSTM((6, 1), (2,), hidden=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        x = torch.randn(64, 6, 1)
        loss = torch.nn.functional.cross_entropy(model(x), (x[:, 0, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.35

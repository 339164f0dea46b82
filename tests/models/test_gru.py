"""The gated unit's arithmetic at the ends of its gates."""

from __future__ import annotations

import torch

from dlrun.models.gru import gru_step

OPEN, SHUT = 50.0, -50.0  # the logistic function is 1 and 0 there


def gates(reset: float, keep: float, new: float) -> torch.Tensor:
    return torch.tensor([[reset, keep, new]])


def test_a_gate_that_keeps_leaves_the_state_alone() -> None:
    (h,) = gru_step(gates(0.0, OPEN, 3.0), gates(0.0, 0.0, 3.0), (torch.tensor([[0.3]]),))
    torch.testing.assert_close(h, torch.tensor([[0.3]]))


def test_a_shut_reset_gate_hides_the_last_output() -> None:
    (h,) = gru_step(gates(SHUT, SHUT, 0.5), gates(0.0, 0.0, 7.0), (torch.tensor([[0.3]]),))
    torch.testing.assert_close(h, torch.tensor([[0.5]]).tanh())


def test_an_open_reset_gate_adds_it_and_half_a_gate_mixes() -> None:
    (h,) = gru_step(gates(OPEN, 0.0, 0.5), gates(0.0, 0.0, 0.25), (torch.tensor([[0.3]]),))
    torch.testing.assert_close(h, 0.5 * torch.tensor([[0.75]]).tanh() + 0.15)

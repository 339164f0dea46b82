"""Optimizers lent in the form that a recording holds, and given back as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dlrun.engines.capturable import Lent
from dlrun.engines.recording import Ungraphable
from dlrun.optimizers import Lion, Muon
from dlrun.training.updater import Updater


def updater(kind: Any, enabled: bool = False, **settings: Any) -> Updater:
    model = nn.Linear(3, 2)
    return Updater(kind(model.parameters(), **settings), torch.amp.GradScaler("cpu", enabled=enabled))


def test_lent_and_given_back() -> None:
    part = updater(torch.optim.Adam, lr=0.1)
    before = [dict(group) for group in part.optimizer.param_groups]
    lent = Lent([part])
    lent.lend()
    lent.set_rates(torch.tensor([0.5]))
    group = part.optimizer.param_groups[0]
    assert (group["capturable"], group["foreach"], group["lr"].item()) == (True, True, 0.5)
    lent.give_back(0.25)
    assert group | {"lr": 0.1} == before[0]
    assert group["lr"] == 0.1 * 0.25 == part.rate
    assert part.factor == 0.25


def test_rates_of_several_optimizers_and_groups_stand_side_by_side() -> None:
    lent = Lent([updater(Muon, lr=0.5, adam_lr=0.25), updater(Lion, lr=2.0)])
    assert lent.rates([1.0, 0.5]) == [[0.5, 0.25, 2.0], [0.25, 0.125, 1.0]]
    lent.set_rates(torch.tensor([1.0, 2.0, 3.0]))
    assert [float(group["lr"]) for group, _ in lent.groups()] == [1.0, 2.0, 3.0]


def test_a_rate_is_read_where_it_lies() -> None:
    part, rates = updater(Lion), torch.tensor([[1.0], [2.0]])
    Lent([part]).set_rates(rates[1])
    rates.fill_(5.0)
    assert part.optimizer.param_groups[0]["lr"] == 5.0


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (updater(torch.optim.SGD, lr=0.1), "optimizer.fused=true"),
        (updater(torch.optim.Adagrad), "optimizer.fused=true"),
        (updater(torch.optim.LBFGS), "no form"),
        (updater(torch.optim.Adam, enabled=True), "scaled loss"),
    ],
)
def test_what_reads_the_device_is_refused(part: Updater, reason: str) -> None:
    with pytest.raises(Ungraphable, match=reason):
        Lent([part])


def test_fused_forms_take_a_scaled_loss() -> None:
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
        Lent([updater(kind, enabled=True, lr=0.1, fused=True)])

"""Outputs of a whole part: complete, in order, without gradients, without a trace in the random streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.evaluation import EvaluationStopped, evaluate, evaluation_mode
from dlrun.training.signals import StopFlag
from tiny import FACTS, batches


def task() -> Regression:
    return Regression(MeanSquaredError(), FACTS, standardize=False)


def test_outputs_are_whole_and_in_the_order_of_the_data() -> None:
    model, part = nn.Linear(3, 1), batches(10)
    found = evaluate(model, task(), part, nullcontext(), split="val", step=7, epoch=1.5, stop=StopFlag())
    inputs, targets = next(batches(10, 10).in_order())
    torch.testing.assert_close(found.outputs, model(inputs).detach())
    assert torch.equal(found.targets, targets)
    assert (found.split, found.step, found.epoch) == ("val", 7, 1.5)
    expected = float((found.outputs - targets).square().mean())
    assert found.metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert found.metrics["mse"] == pytest.approx(expected, rel=1e-6)
    assert set(found.baseline) == {"mse", "mae", "r2"}
    assert not found.outputs.requires_grad


def test_the_batch_size_does_not_matter() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1), nn.Dropout(0.5))
    found = [
        evaluate(model, task(), batches(10, size), nullcontext(), split="val", step=0, epoch=0.0, stop=StopFlag())
        for size in (1, 3, 10)
    ]
    torch.testing.assert_close(found[0].outputs, found[1].outputs)
    torch.testing.assert_close(found[0].outputs, found[2].outputs)


def test_the_mode_and_the_random_streams_come_back() -> None:
    model = nn.Dropout(0.5)
    before = torch.get_rng_state()
    with evaluation_mode(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()
    with pytest.raises(RuntimeError, match="on purpose"), evaluation_mode(model):
        raise RuntimeError("on purpose")
    assert not model.training


def test_a_signal_ends_it_between_two_batches() -> None:
    stop, seen = StopFlag(), []

    class Watching(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
            seen.append(len(input))
            stop.number = 15
            return super().forward(input)

    model = Watching(3, 1)
    with pytest.raises(EvaluationStopped):
        evaluate(model, task(), batches(10), nullcontext(), split="val", step=0, epoch=0.0, stop=stop)
    assert seen == [4]
    assert model.training


def test_half_precision_outputs_are_judged_in_full() -> None:
    autocast = torch.autocast("cpu", torch.bfloat16)
    found = evaluate(
        nn.Linear(3, 1), task(), batches(10), autocast, split="val", step=0, epoch=0.0, stop=StopFlag()
    )  # fmt: skip
    assert found.outputs.dtype == torch.float32


@pytest.fixture(autouse=True)
def _no_autocast_left() -> Iterator[None]:
    yield
    assert not torch.is_autocast_enabled("cpu")

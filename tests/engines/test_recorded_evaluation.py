"""Evaluation through recordings: the same outputs, of the weights as they are now."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.engines.recorded_evaluation import FORMS, MOVES, RecordedEvaluation
from dlrun.training.average import ExponentialAverage
from dlrun.training.evaluation import as_it_is, evaluation_mode
from tape import Tape


class Pair(nn.Module):
    """A network with two outputs, one of them random, and something beside its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.name = "pair"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.layer(x)
        return out, out + torch.randn_like(out)


def batch(size: int, seed: int) -> Tensor:
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))


def test_outputs_are_those_of_the_network_in_tensors_of_their_own() -> None:
    model, tape = Pair(), Tape()
    seen = RecordedEvaluation(tape, as_it_is)(model)
    inputs = [batch(size, seed) for seed, size in enumerate((4, 4, 4, 4, 2))]
    with evaluation_mode(model):
        found = [seen(x) for x in inputs]
    with evaluation_mode(model):
        expected = [model(x) for x in inputs]
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert (tape.rehearsals, tape.captures, tape.replays) == (1, 1, 2)
    assert seen.name == "pair"


def test_the_weights_are_those_of_now_also_when_they_lie_elsewhere() -> None:
    model, tape = Pair(), Tape()
    evaluation, average = RecordedEvaluation(tape, as_it_is), ExponentialAverage(model, 0.5)

    def check() -> None:
        with evaluation_mode(model):
            seen = evaluation(model)
            for seed in range(4):
                assert torch.equal(seen(batch(4, seed))[0], model.layer(batch(4, seed)))

    check()
    with torch.no_grad():
        model.layer.weight.add_(1.0)
    check()
    assert tape.captures == 1
    with average.applied():
        check()
    assert tape.captures == 2
    check()
    assert tape.captures == 3


def test_casts_of_the_weights_are_not_remembered() -> None:
    """Under autocast a cast is kept for the context; a recording that used it would miss the next weights."""
    model, evaluation = nn.Linear(3, 2), RecordedEvaluation(Tape(), as_it_is)
    for _ in range(2):
        with evaluation_mode(model), torch.autocast("cpu", torch.bfloat16):
            seen = evaluation(model)
            found = [seen(batch(4, seed)) for seed in range(4)]
        with evaluation_mode(model), torch.autocast("cpu", torch.bfloat16):
            assert all(torch.equal(found[seed], model(batch(4, seed))) for seed in range(4))
        with torch.no_grad():
            model.weight.mul_(3.0)
    assert torch.is_autocast_cache_enabled()


class Waits(nn.Module):
    """A network that reads a value on the host, after a random number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(3)
        return x * noise * self.weight * x.sum().item()


def test_a_network_that_waits_is_called_as_it_is_written() -> None:
    model, tape = Waits(), Tape()
    evaluation = RecordedEvaluation(tape, as_it_is)
    with evaluation_mode(model):
        seen = evaluation(model)
        found = [seen(batch(4, seed)) for seed in range(4)]
    with evaluation_mode(model):
        assert all(torch.equal(found[seed], model(batch(4, seed))) for seed in range(4))
    assert evaluation.given_up
    assert evaluation(model) is model
    assert tape.captures == 0


def test_an_error_of_the_network_is_not_hidden() -> None:
    model = nn.Linear(3, 2)
    with evaluation_mode(model):
        seen = RecordedEvaluation(Tape(), as_it_is)(model)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                seen(torch.ones(4, 5))


def test_calls_that_want_gradients_and_other_views_are_left_alone() -> None:
    model, tape = nn.Linear(3, 2), Tape()
    seen = RecordedEvaluation(tape, as_it_is)(model)
    for _ in range(4):
        assert seen(batch(4, 0)).requires_grad
    assert tape.rehearsals == 0
    other: Any = object()
    assert RecordedEvaluation(tape, lambda _: other)(model) is other


def test_only_so_many_forms_are_recorded() -> None:
    model, tape = nn.Linear(3, 2), Tape()
    with evaluation_mode(model):
        seen = RecordedEvaluation(tape, as_it_is)(model)
        for _ in range(3):
            for size in range(1, FORMS + 4):
                assert torch.equal(seen(batch(size, 0)), model(batch(size, 0)))
    assert tape.captures == FORMS


def test_weights_that_never_stay_are_not_recorded_for_ever() -> None:
    model, tape = nn.Linear(3, 2), Tape()
    evaluation = RecordedEvaluation(tape, as_it_is)
    for _ in range(3 * MOVES):
        model.weight.data = model.weight.data.clone()
        with evaluation_mode(model):
            seen = evaluation(model)
            for _ in range(3):
                assert torch.equal(seen(batch(4, 0)), model(batch(4, 0)))
    assert tape.captures <= MOVES

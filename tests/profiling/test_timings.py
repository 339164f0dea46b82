"""Planted delays are found where they were planted, exactly: the clock stands still but for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dlrun.data.batches import Batches
from dlrun.profiling.advice import Seen, verdict
from dlrun.profiling.clock import ROOT, HostMeter
from dlrun.profiling.operators import Operators
from dlrun.profiling.phases import DATA, STEP, WATCH
from dlrun.profiling.report import LOGGING, ONE_PIECE, RESIDUE, Step, split
from dlrun.profiling.timings import Limits, Timings, lengths, measure, span
from dlrun.profiling.trials import Trials
from dlrun.training.average import ExponentialAverage
from dlrun.training.callbacks import Callback
from dlrun.training.taking import one_step
from dlrun.training.trainer import Trainer
from tiny import CPU, FACTS, AsIs, make_trainer, plan

LIMITS = Limits(steps=20)


class Hand:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


class Slow(nn.Module):
    """A layer that moves the hand forward and back."""

    def __init__(self, hand: Hand, forward: float, backward: float) -> None:
        super().__init__()
        self.hand, self.times, self.layer = hand, (forward, backward), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.hand.at += self.times[0]
        out = self.layer(x)
        if out.requires_grad:
            out.register_hook(self._back)
        return out

    def _back(self, gradient: Tensor) -> Tensor:
        self.hand.at += self.times[1]
        return gradient


class Source(Dataset[Any]):
    """Points that take their time to come."""

    targets = torch.zeros(10, 1)

    def __init__(self, hand: Hand, each: float) -> None:
        self.hand, self.each = hand, each

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.hand.at += self.each
        return torch.ones(3), torch.ones(1)


class Dawdling(Callback):
    def __init__(self, hand: Hand, step: float, log: float) -> None:
        self.hand, self.times = hand, (step, log)

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        self.hand.at += self.times[0]

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        self.hand.at += self.times[1]


def timed(hand: Hand, trainer: Trainer, limits: Limits = LIMITS) -> Timings:
    return measure(trainer, limits, HostMeter(hand))


def parts_of(timings: Timings, log_every: int = 2) -> Step:
    return split(timings, log_every, None, 0.01, 600.0)


def test_forward_and_backward_are_told_apart_and_add_up() -> None:
    hand = Hand()
    timings = timed(hand, make_trainer(model=Slow(hand, 3.0, 5.0)))
    assert timings.bare.middle == timings.stamped.middle == 8
    assert timings.phases["", "forward"].middle == 3
    assert timings.phases["", "backward"].middle == 5
    assert timings.steps == 20
    step = parts_of(timings)
    assert step.seconds == sum(part.seconds.middle for part in step.parts) == 8
    assert step.left_over == 0
    assert step.share("forward") == 3 / 8


def test_a_slow_source_is_data_wait() -> None:
    hand = Hand()
    train = Batches(Source(hand, 2.0), preprocess=AsIs(), batch_size=5, device=CPU, seed=0)
    timings = timed(hand, make_trainer(model=Slow(hand, 1.0, 1.0), train=train, val=None))
    assert timings.phases[DATA].middle == 10
    assert timings.bare.middle == 12
    assert timings.evaluation == {}
    step = parts_of(timings)
    nothing = Operators(1, [], 0.0, 0.0, [], [], 0.0, 0.0)
    seen = Seen(step, timings, 0.0, 3, 2, nothing, Trials(), FACTS, 0, None, on_device=False)
    assert verdict(seen, []).sentence.startswith("data wait is 83% of a step")


def test_a_slow_callback_is_logging_under_its_name() -> None:
    hand = Hand()
    timings = timed(hand, make_trainer(Dawdling(hand, step=4.0, log=6.0), plan=plan(log=2), val=None))
    assert timings.phases[WATCH, "Dawdling"].middle == 4
    assert timings.rows["Dawdling"] == 6
    step = parts_of(timings, log_every=2)
    part = next(part for part in step.parts if part.name == LOGGING)
    assert part.details["Dawdling"] == 4 + 6 / 2
    assert part.share == 1
    assert step.seconds == 7


def test_a_row_is_asked_for_where_none_came() -> None:
    hand = Hand()
    timings = timed(hand, make_trainer(Dawdling(hand, 0.0, 6.0), plan=plan(log=1000), val=None))
    assert timings.rows["Dawdling"] == 6


def test_an_evaluation_counts_beside_the_steps() -> None:
    hand = Hand()
    trainer = make_trainer(model=Slow(hand, 1.0, 1.0))
    inner = trainer.task.measure

    def measured(*args: Any) -> Any:
        hand.at += 50.0
        return inner(*args)

    trainer.task.measure = measured  # type: ignore[method-assign]
    timings = timed(hand, trainer)
    assert sum(timings.evaluation.values()) == 50
    assert timings.bare.middle == 2


def test_the_weight_average_is_a_part_of_its_own() -> None:
    hand = Hand()
    trainer = make_trainer(model=Slow(hand, 1.0, 1.0), val=None)
    trainer.average = ExponentialAverage(trainer.model, 0.9)
    inner = trainer.average.update

    def update() -> None:
        hand.at += 2.0
        inner()

    trainer.average.update = update  # type: ignore[method-assign]
    assert parts_of(timed(hand, trainer)).share("weight average") == 0.5


def test_the_cost_of_stamping_is_taken_off() -> None:
    """Every reading of the clock moves it by one: what is left of the phases is what was planted."""

    class Dear(Hand):
        def __call__(self) -> float:
            self.at += 1.0
            return self.at

    hand = Dear()
    timings = timed(hand, make_trainer(model=Slow(hand, 1000.0, 2000.0), val=None))
    assert timings.stamped.middle > timings.bare.middle + 14  # two readings for each of seven phases
    assert timings.cost > 14
    assert timings.phases["", "forward"].middle == pytest.approx(1000, abs=0.1)
    assert timings.phases["", "backward"].middle == pytest.approx(2000, abs=0.1)
    assert abs(parts_of(timings).left_over) < 0.001


class Driver:
    """An engine that takes three steps at once, of which nothing is seen from outside."""

    def __init__(self, hand: Hand, given_up: str = "") -> None:
        self.hand, self.given_up = hand, given_up

    def take(self, trainer: Trainer, batches: Iterator[Any]) -> list[dict[str, Tensor]]:
        if self.given_up:
            return list(one_step(trainer, batches))
        self.hand.at += 6.0
        return [{"loss": torch.zeros(())}] * 3


def test_recorded_steps_are_one_piece_and_get_no_stamps() -> None:
    hand = Hand()
    trainer = make_trainer(val=None)
    trainer.updater.gradient_norm = lambda: torch.zeros(())  # type: ignore[method-assign]
    trainer.take = Driver(hand).take
    inner, seen = trainer.algorithm.step, set[object]()
    trainer.take_step = lambda batch: seen.add(trainer.take_step) or inner(batch)  # type: ignore[func-returns-value]
    timings = timed(hand, trainer)
    assert timings.bare.middle == 2
    assert timings.phases[STEP].middle == 2
    assert timings.steps >= 20
    assert ("", "forward") not in timings.phases
    assert seen == set()
    step = parts_of(timings)
    assert step.in_one_piece
    assert step.share(ONE_PIECE) == 1


def test_an_engine_that_has_given_up_is_seen_through() -> None:
    hand = Hand()
    trainer = make_trainer(model=Slow(hand, 3.0, 5.0), val=None)
    trainer.take = Driver(hand, "it cannot be recorded").take
    timings = timed(hand, trainer)
    assert timings.phases["", "forward"].middle == 3
    assert not parts_of(timings).in_one_piece


def test_the_trainer_is_left_without_a_trace_of_the_stamps() -> None:
    hand = Hand()
    trainer = make_trainer()
    inner = {name: set(vars(part)) for name, part in parts(trainer)}
    callbacks = list(trainer.callbacks)
    timed(hand, trainer)
    assert {name: set(vars(part)) for name, part in parts(trainer)} == inner
    assert trainer.callbacks[: len(callbacks)] == callbacks
    assert len(trainer.callbacks) == len(callbacks) + 1, "what conducted the measurement"


def parts(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    yield "algorithm", trainer.algorithm
    yield "updater", trainer.updater
    yield "average", trainer.average
    yield "train", trainer.train
    yield "trainer", trainer


def test_the_plan_of_a_short_run_does_not_end_the_measurement() -> None:
    hand = Hand()
    timings = timed(hand, make_trainer(plan=plan(total=2, every=1, early_stop=1)))
    assert timings.steps == 20
    assert ROOT in timings.phases


@pytest.mark.parametrize(
    ("limits", "each", "row", "expected"),
    [
        (Limits(seconds=5.0), 0.001, 50, (10, 250)),
        (Limits(seconds=5.0), 0.001, 60, (10, 240)),
        (Limits(seconds=5.0), 0.01, 50, (10, 25)),
        (Limits(seconds=5.0), 1e-9, 50, (10, 2000)),
        (Limits(seconds=5.0), 0.5, 50, (5, 1)),
        (Limits(seconds=5.0), 60.0, 50, (3, 1)),
        (Limits(steps=40), 60.0, 50, (10, 4)),
        (Limits(steps=2), 60.0, 50, (2, 1)),
    ],
)
def test_blocks_fill_the_time_with_whole_rows(limits: Limits, each: float, row: int, expected: tuple[int, int]) -> None:
    assert lengths(limits, each, row) == expected


def test_quartiles() -> None:
    found = span([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.low, found.middle, found.high) == (2, 3, 4)
    assert span([7.0]).low == span([7.0]).high == 7


def test_what_is_left_over_has_a_row_of_its_own() -> None:
    hand = Hand()
    timings = timed(hand, make_trainer(model=Slow(hand, 3.0, 5.0), val=None))
    assert parts_of(timings).parts[-1].name == RESIDUE

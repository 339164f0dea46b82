"""Whether a pack pays is measured where it is to run; the measurement leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from dlrun.build import Experiment, check
from dlrun.config import compose
from dlrun.loading import Loaded, load
from dlrun.packing.flat import Unpackable
from dlrun.packing.gradient import PackedGradient
from dlrun.sweeps import measuring
from dlrun.sweeps.measuring import Pace, measure, one_alone, timed

WORDS = ["data=digits", "model=mlp", "model.hidden=[8]", "trainer.device=cpu", "trainer.limit.train=100"]
CPU = torch.device("cpu")


@pytest.fixture
def lanes() -> tuple[list[Experiment], Loaded]:
    made = [check(compose([*WORDS, f"optimizer.lr={rate}", f"trainer.seed={i}"])) for i, rate in enumerate((0.1, 0.01))]
    return made, load(made[0])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0.0)


def test_a_pack_pays_where_its_faster_form_is_faster_than_a_trial_alone() -> None:
    assert Pace(alone=2e-4, packed=1e-4).pays
    assert not Pace(alone=2e-4, packed=3e-4).pays
    assert Pace(alone=2e-4, packed=3e-4, compiled=1e-4).pays
    assert Pace(alone=2e-4, packed=1e-4, compiled=3e-4).pays
    assert not Pace(alone=2e-4, packed=4e-4, compiled=3e-4).pays


def test_it_is_compiled_where_that_is_faster() -> None:
    assert not Pace(alone=2e-4, packed=1e-4).compiles
    assert not Pace(alone=2e-4, packed=1e-4, compiled=2e-4).compiles
    assert Pace(alone=2e-4, packed=2e-4, compiled=1e-4).compiles


def test_a_pace_in_words() -> None:
    assert str(Pace(4e-4, 1e-4)) == "microseconds for a trial's step: 100 in the pack, 400 alone"
    assert str(Pace(4e-4, 1e-4, 5e-5)) == "microseconds for a trial's step: 100 in the pack, compiled 50, 400 alone"


def test_the_median_of_enough_calls_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: each call takes what its turn says."""
    turns = [50.0, 50.0, 50.0, 1.0, 9.0, 2.0, 3.0, 4.0]
    now, calls = [0.0], []

    def step() -> None:
        now[0] += turns[len(calls)]
        calls.append(None)

    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    assert timed(step, CPU) == 3.0
    assert len(calls) == measuring.WARM_UP + measuring.LEAST_STEPS


def test_both_ways_are_measured_and_nothing_is_left_behind(lanes: tuple[list[Experiment], Loaded]) -> None:
    experiments, loaded = lanes
    seed = loaded.train.seed
    pace = measure(experiments, loaded, 100)
    assert pace.alone > 0
    assert pace.packed > 0
    assert pace.compiled is None  # a hundred steps are not worth it
    assert loaded.train.seed == seed
    assert 0 < one_alone(experiments[0], loaded) < 1


def test_long_training_is_worth_trying_to_compile(
    lanes: tuple[list[Experiment], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []

    def noted(self: PackedGradient, stack: object, batch: object) -> None:
        compiled.append(batch)
        self.programs[batch.form] = lambda *_: (_ for _ in ()).throw(RuntimeError("no compiler"))  # type: ignore[attr-defined]

    monkeypatch.setattr(PackedGradient, "compile", noted)
    pace = measure(*lanes, steps=10**9)
    assert len(compiled) == 1
    assert pace.compiled is None  # for it did not work
    assert not pace.compiles
    assert measure(*lanes, steps=None).compiled is None
    assert len(compiled) == 1  # a run that ends by the clock may be short


def test_what_does_not_train_together_is_found_here(lanes: tuple[list[Experiment], Loaded]) -> None:
    experiments, loaded = lanes
    other = check(compose([*WORDS, "optimizer=sgd"]))
    with pytest.raises(Unpackable, match="different optimizers"):
        measure([experiments[0], other], loaded, 100)

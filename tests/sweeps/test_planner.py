"""Which trials are tried in one pack, how many, and what is remembered of those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dlrun.build import check
from dlrun.config import compose
from dlrun.sweeps import planner
from dlrun.sweeps.nouns import Point, Settings, Trial
from dlrun.sweeps.planner import FEWEST_LANES, TrialPlanner, most_lanes, structure

COMMON = ["data=digits", "model=mlp", "model.hidden=[8]", "trainer.device=cpu"]
# Words that may be different in the trials of a pack: two settings each.
TOGETHER = [
    ["trainer.seed=0", "trainer.seed=7"],
    ["optimizer.lr=0.1", "optimizer.lr=0.01"],
    ["optimizer.betas=[0.9,0.99]", "optimizer.betas=[0.8,0.999]"],
    ["optimizer.weight_decay=0.1", "optimizer.weight_decay=1e-4"],
    ["model.dropout=0.1", "model.dropout=0.5"],
    ["loss=cross_entropy loss.label_smoothing=0.1", "loss=cross_entropy loss.label_smoothing=0.2"],
    ["schedule=cosine schedule.warmup=0.1", "schedule=cosine schedule.warmup=0.3"],
    ["schedule=plateau schedule.patience=3", "schedule=plateau schedule.patience=5"],
    ["trainer.clip_norm=1", "trainer.clip_norm=0.5"],
    ["trainer.clip_value=1", "trainer.clip_value=0.5"],
    ["trainer.ema=0.9", "trainer.ema=0.99"],
]
APART = [
    ["model.hidden=[8]", "model.hidden=[9]"],
    ["model=mlp", "model=vae"],
    ["model.batch_norm=true", "model.batch_norm=false"],
    ["optimizer=adam", "optimizer=sgd"],
    ["schedule=constant", "schedule=cosine"],
    ["activation=tanh", "activation=relu"],
    ["model.dropout=0", "model.dropout=0.5"],  # without it there is no such layer
    ["trainer.clip_norm=null", "trainer.clip_norm=1"],
    ["trainer.ema=0", "trainer.ema=0.9"],
    ["trainer.batch_size=32", "trainer.batch_size=64"],
    ["trainer.epochs=3", "trainer.epochs=4"],
    ["trainer.early_stop=3", "trainer.early_stop=4"],
    ["data.val=0.1", "data.val=0.2"],
    ["precision=fp32", "precision=bf16"],
    ["tracking.every=10", "tracking.every=20"],
]


def text(*words: str) -> str:
    return _composed(tuple(with_common(words)))


@cache
def _composed(words: tuple[str, ...]) -> str:
    return OmegaConf.to_yaml(compose(list(words)))


def with_common(words: Sequence[str]) -> list[str]:
    """With ``COMMON`` before them, less its network where they name another."""
    other = any(word.startswith("model=") for word in words)
    return [*(word for word in COMMON if not (other and word.startswith("model"))), *words]


@pytest.mark.parametrize("words", TOGETHER, ids=" ".join)
def test_trials_that_differ_in_numbers_are_tried_together(words: list[str]) -> None:
    one, other = (text(*some.split()) for some in words)
    assert one != other
    assert structure(one) == structure(other)


@pytest.mark.parametrize("words", APART, ids=" ".join)
def test_trials_that_differ_in_more_are_not(words: list[str]) -> None:
    one, other = (text(*some.split()) for some in words)
    assert structure(one) != structure(other)


@dataclass
class Claimed:
    """A point that is worked on."""

    number: int
    point: Point


class FakeComposer:
    """Composes from the files of the package."""

    def config(self, point: Point, seed: int) -> Any:
        return OmegaConf.create(_composed((*point.overrides, f"trainer.seed={seed}")))


class FakeDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def trial(self, number: int, seed: int) -> Path:
        return self.path / f"{number:04d}-seed{seed}"


def planner_of(path: Path, trials: int = 100, **settings: Any) -> TrialPlanner:
    return TrialPlanner(
        FakeDirectory(path),  # type: ignore[arg-type]
        FakeComposer(),  # type: ignore[arg-type]
        Settings(**({"launcher": "auto"} | settings)),
        command=("--outputs", "somewhere"),
        trials=trials,
    )


def trials(path: Path, lanes: Sequence[str]) -> list[Trial]:
    made = []
    plan = planner_of(path)
    for number, lane in enumerate(lanes):
        point = Point({}, tuple(with_common(lane.split())))
        made.append(plan.trial(Claimed(number, point), 0))
    return made


RATES = [f"optimizer.lr={rate}" for rate in (0.1, 0.01, 0.001, 0.0001, 0.3)]


def numbers(pack: Sequence[Trial]) -> list[int]:
    return [trial.number for trial in pack]


def test_a_trial_is_complete_and_its_command_runs_it_alone(tmp_path: Path) -> None:
    point = Point({"optimizer.lr": "0.1"}, (*COMMON, "optimizer.lr=0.1"))
    trial = planner_of(tmp_path).trial(Claimed(3, point), 2)
    assert trial.folder == tmp_path / "0003-seed2"
    assert trial.command == ("dlrun", "train", *COMMON, "optimizer.lr=0.1", "trainer.seed=2", "--outputs", "somewhere")
    config = OmegaConf.create(trial.config)
    assert (config.trainer.seed, config.optimizer.lr) == (2, 0.1)


def test_the_first_trial_packs_with_those_like_it(tmp_path: Path) -> None:
    mixed = [*RATES[:2], "optimizer=sgd", *RATES[2:], "model.hidden=[9]"]
    assert numbers(planner_of(tmp_path).pack(trials(tmp_path, mixed))) == [0, 1, 3, 4, 5]


def test_few_trials_run_alone_unless_a_pack_is_asked_for(tmp_path: Path) -> None:
    few = trials(tmp_path, RATES[: FEWEST_LANES - 1])
    assert numbers(planner_of(tmp_path).pack(few)) == [0]
    assert numbers(planner_of(tmp_path, launcher="packed").pack(few)) == [0, 1, 2]
    assert numbers(planner_of(tmp_path, launcher="packed").pack(few[:1])) == [0]


@pytest.mark.parametrize("launcher", ["local", "slurm", "ray"])
def test_other_launchers_do_not_pack(tmp_path: Path, launcher: str) -> None:
    plan = planner_of(tmp_path, launcher=launcher)
    assert plan.ahead == 1
    assert numbers(plan.pack(trials(tmp_path, RATES))) == [0]


def test_no_worker_waits_while_another_has_all_trials(tmp_path: Path) -> None:
    plan = planner_of(tmp_path, trials=9, workers=2, launcher="packed")
    assert plan.ahead == 5
    assert numbers(plan.pack(trials(tmp_path, RATES))) == [0, 1, 2, 3, 4]
    plan = planner_of(tmp_path, trials=5, workers=2, launcher="packed")
    assert numbers(plan.pack(trials(tmp_path, RATES))) == [0, 1, 2]


def test_the_lanes_may_be_limited(tmp_path: Path) -> None:
    plan = planner_of(tmp_path, lanes=2, launcher="packed")
    assert plan.ahead == 2
    assert numbers(plan.pack(trials(tmp_path, RATES))) == [0, 1]


def test_the_memory_limits_the_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = check(compose(COMMON))
    monkeypatch.setattr(planner, "free_memory", lambda device: 10**9)
    most = most_lanes(experiment, 1)
    assert most > planner.MOST_LANES
    assert most_lanes(experiment, 4) == pytest.approx(most / 4, rel=0.01)
    assert most_lanes(check(compose([*COMMON, "model.hidden=[800]"])), 1) < most / 10
    assert most_lanes(check(compose([*COMMON, "trainer.batch_size=512"])), 1) < most
    lane = 10**9 * planner.MEMORY_SHARE / most
    monkeypatch.setattr(planner, "free_memory", lambda device: int(lane * 3.5 / planner.MEMORY_SHARE))
    assert numbers(planner_of(tmp_path, launcher="packed").pack(trials(tmp_path, RATES))) == [0, 1, 2]
    monkeypatch.setattr(planner, "free_memory", lambda device: 0)
    assert numbers(planner_of(tmp_path, launcher="packed").pack(trials(tmp_path, RATES))) == [0]


def test_what_a_lane_is_thought_to_take_is_of_the_right_order() -> None:
    """784-1000-10 has 795,010 parameters: eight copies of four bytes are 25 MB."""
    words = ["data=mnist", "model=mlp", "model.hidden=[1000]", "trainer.device=cpu"]
    experiment = check(compose(words))
    free = planner.free_memory(experiment.device)
    assert 2**20 < free < 2**50
    assert most_lanes(experiment, 1) == pytest.approx(free * planner.MEMORY_SHARE / 26e6, rel=0.1)


def test_what_did_not_train_together_is_not_tried_again(tmp_path: Path) -> None:
    plan, made = planner_of(tmp_path), trials(tmp_path, [*RATES, *(f"{rate} optimizer=sgd" for rate in RATES)])
    plan.apart(made[:5], "one by one they are faster")
    assert numbers(plan.pack(made)) == [0]
    assert numbers(plan.pack(made[5:])) == [5, 6, 7, 8, 9]


def test_what_cannot_be_stacked_is_known_beforehand(tmp_path: Path) -> None:
    plan = planner_of(tmp_path)
    made = trials(tmp_path, [f"model=rbm model.hidden=8 optimizer.lr={r}" for r in (0.1, 0.2, 0.3, 0.4)])
    assert numbers(plan.pack(made)) == [0]
    assert list(plan.why_apart.values()) == ["its model or algorithm does not pack"]

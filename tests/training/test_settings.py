"""The trainer group read: lengths and intervals as arithmetic, and every number that cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dlrun.config import compose
from dlrun.errors import ConfigError
from dlrun.tasks import Monitor
from dlrun.training.settings import FEWEST_EPOCHS, FEWEST_STEPS, Settings, parse_budget, read_settings

GROUP: dict[str, Any] = dict(compose([])["trainer"])


def settings(**changed: Any) -> Settings:
    return read_settings(GROUP | {"limit": {}} | changed)


@pytest.mark.parametrize(
    ("changed", "steps_per_epoch", "total"),
    [
        ({}, 1000, FEWEST_EPOCHS * 1000),
        ({}, 7, 7 * math.ceil(FEWEST_STEPS / 7)),  # as many whole epochs as the steps take
        ({}, 1, FEWEST_STEPS),
        ({"epochs": 2}, 7, 14),
        ({"epochs": 0.5}, 7, 4),  # 3.5 rounds to even: 4
        ({"epochs": 0.001}, 7, 1),
        ({"epochs": 2.5}, 10, 25),
        ({"steps": 5}, 7, 5),  # auto gives way to steps
        ({"steps": 5, "epochs": 2}, 7, 5),
        ({"steps": 50, "epochs": 2}, 7, 14),
        ({"epochs": None, "steps": 9}, 7, 9),
        ({"epochs": None, "budget": "5m"}, 7, None),
        ({"budget": "5m"}, 7, None),  # auto gives way to the budget
        ({"budget": "5m", "epochs": 3}, 7, 21),
        ({"budget": "5m", "steps": 3}, 7, 3),
    ],
)
def test_the_length_in_steps(changed: dict[str, Any], steps_per_epoch: int, total: int | None) -> None:
    assert settings(**changed).plan(steps_per_epoch, 50).total_steps == total


@pytest.mark.parametrize(
    ("changed", "steps_per_epoch", "every"),
    [
        ({"epochs": 30}, 7, 7),
        ({"epochs": 31}, 7, 14),
        ({"epochs": 300}, 7, 70),
        ({"steps": 211}, 7, 14),  # 30.14 epochs
        ({"steps": 3}, 7, 7),
        ({"budget": 60}, 7, 7),
        ({"evaluate_every": 2}, 7, 14),
        ({"evaluate_every": 0.5}, 8, 4),
        ({"evaluate_every": 0.001}, 8, 1),
        ({"evaluate_every": 2, "evaluate_steps": 3}, 7, 3),
    ],
)
def test_the_steps_between_evaluations(changed: dict[str, Any], steps_per_epoch: int, every: int) -> None:
    assert settings(**changed).plan(steps_per_epoch, 50).evaluate_every == every


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 23, 250, 5000])
def test_auto_evaluates_at_most_thirty_times(steps_per_epoch: int) -> None:
    plan = settings().plan(steps_per_epoch, 50)
    assert plan.total_steps is not None
    assert plan.total_steps / plan.evaluate_every <= 30
    assert plan.evaluate_every % steps_per_epoch == 0


def test_the_plan_carries_the_rest() -> None:
    plan = settings(budget="90s", early_stop=4).plan(10, 25)
    assert (plan.budget, plan.early_stop, plan.log_every) == (90.0, 4, 25)


def test_a_run_of_auto_length_is_long_enough() -> None:
    assert FEWEST_EPOCHS >= 10
    assert FEWEST_STEPS >= 3000


def test_the_batch() -> None:
    assert settings().batch(1000, full_batch=False) == 64
    assert settings().batch(10, full_batch=False) == 10
    assert settings().batch(1000, full_batch=True) == 1000
    assert settings(batch_size=7).batch(10, full_batch=False) == 7
    assert settings(batch_size=10).batch(10, full_batch=False) == 10
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=11"):
        settings(batch_size=11).batch(10, full_batch=False)


def test_the_goal() -> None:
    usual = Monitor("accuracy", higher_is_better=True)
    names = ("loss", "accuracy", "f1")
    assert settings().goal(usual, names) is usual
    assert settings(monitor="val/loss").goal(usual, names) == Monitor("loss", higher_is_better=False)
    assert settings(monitor="f1").goal(usual, names) == Monitor("f1", higher_is_better=True)
    with pytest.raises(ConfigError, match=r"trainer\.monitor=val/acuracy.*did you mean 'val/accuracy'"):
        settings(monitor="val/acuracy").goal(usual, names)
    with pytest.raises(ConfigError, match=r"trainer\.monitor=val/r2: there is no such metric"):
        settings(monitor="val/r2").goal(usual, names)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None), (90, 90.0), (0.5, 0.5), ("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1h30m", 5400.0),
        ("1.5h", 5400.0), ("2d", 172_800.0), ("1h 30m 5s", 5405.0), (" 5 m ", 300.0),
    ],
)  # fmt: skip
def test_a_budget(text: Any, seconds: float | None) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-5",
        -5,
        "0",
        0,
        "0s",
        "5x",
        "5M",
        "1e3",
        "inf",
        "nan",
        "5m!",
        "m5",
        "1..5s",
        True,
        "h",
        "9" * 400,
        "1" * 60 + "x",  # a pattern with two ways to read a digit would take years
        "1h30",
        "90 30",
        [5],
    ],
)
def test_no_budget(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.budget=.*90s, 5m or 1h30m"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("epochs", [0, -1, "many", float("nan"), float("inf"), True]),
        ("steps", [0, -1, 1.5, "auto", True]),
        ("batch_size", [0, 2.0, "half", False]),
        ("accumulate", [0, -2, 1.5]),
        ("clip_norm", [0, -1, "big"]),
        ("clip_value", [0, -1, float("nan")]),
        ("ema", [-0.1, 1, 1.5, "slow", None]),
        ("evaluate_every", [0, -1, "often"]),
        ("evaluate_steps", [0, 0.5]),
        ("early_stop", [0, 2.5]),
        ("checkpoint_every", [0, 1.5, "often"]),
        ("channels_last", ["yes", 3]),
        ("threads", [0, "all"]),
        ("workers", [-1, 0.5]),
        ("seed", [-1, 0.5, "lucky"]),
    ],
)
def test_a_number_out_of_range_names_its_key(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"trainer\.{key}="):
            settings(**{key: value})


@pytest.mark.parametrize("value", [0, -1, "all", True, float("nan"), float("inf")])
def test_a_limit_that_cannot_be_names_its_part(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.limit\.val="):
        settings(limit={"train": 5, "val": value})


def test_a_run_without_an_end_and_a_key_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no end"):
        settings(epochs=None)
    with pytest.raises(ConfigError, match=r"trainer\.epoch: .*did you mean 'epochs'"):
        settings(epoch=3)

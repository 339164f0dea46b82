"""What all tasks share: comparing two values, and refusing a loss of the other kind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import CrossEntropy, MeanAbsoluteError
from dlrun.tasks import HIGHER_IS_BETTER, Monitor, check_loss
from family_cases import ALL, experiment

KINDS = Facts("kinds", "table", (3,), "classification", classes=("a", "b"))


@pytest.mark.parametrize(
    ("higher", "value", "best", "improves"),
    [
        (True, 2.0, 1.0, True),
        (True, 1.0, 1.0, False),
        (True, 0.5, 1.0, False),
        (False, 0.5, 1.0, True),
        (False, 1.0, 1.0, False),
        (False, 2.0, 1.0, False),
        (True, math.nan, 1.0, False),
        (False, math.nan, 1.0, False),
    ],
)
def test_better_is_strictly_better_and_nan_never_is(higher: bool, value: float, best: float, improves: bool) -> None:
    assert Monitor("x", higher_is_better=higher).improves(value, best) is improves


@pytest.mark.parametrize("name", ALL)
def test_every_metric_that_a_task_reports_can_be_monitored(name: str, family_files: dict[str, Path]) -> None:
    task = experiment(name, family_files).task
    assert set(task.metric_names()) <= set(HIGHER_IS_BETTER)
    assert HIGHER_IS_BETTER[task.monitor.metric] == task.monitor.higher_is_better
    assert task.monitor.metric in task.metric_names()


def test_a_loss_of_the_other_kind_names_one_that_works() -> None:
    numbers = Facts("numbers", "table", (3,), "regression", targets=("y",))
    with pytest.raises(ConfigError, match=r"CrossEntropy is for .*, but 'numbers' is regression: .*mse"):
        check_loss(CrossEntropy(), "regression", numbers)
    check_loss(MeanAbsoluteError(), "classification", KINDS)


def test_a_loss_from_elsewhere_says_nothing_and_is_taken() -> None:
    check_loss(lambda outputs, targets: outputs.sum(), "classification", KINDS)  # type: ignore[arg-type]

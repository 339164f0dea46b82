"""What all tasks share: comparing two values, and refusing a loss of the other kind."""

from __future__ import annotations

import math

import pytest

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import CrossEntropy, MeanAbsoluteError
from dlrun.tasks import HIGHER_IS_BETTER, Monitor, check_loss

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


def test_every_metric_that_a_task_reports_can_be_monitored() -> None:
    assert set(HIGHER_IS_BETTER) == {"loss", "accuracy", "f1", "auroc", "mse", "mae", "r2"}


def test_a_loss_of_the_other_kind_names_one_that_works() -> None:
    numbers = Facts("numbers", "table", (3,), "regression", targets=("y",))
    with pytest.raises(ConfigError, match=r"CrossEntropy is for classification, but 'numbers' is regression: .*mse"):
        check_loss(CrossEntropy(), "regression", numbers)
    check_loss(MeanAbsoluteError(), "classification", KINDS)


def test_a_loss_from_elsewhere_says_nothing_and_is_taken() -> None:
    check_loss(lambda outputs, targets: outputs.sum(), "classification", KINDS)  # type: ignore[arg-type]

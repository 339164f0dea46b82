from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.optim import SGD, lr_scheduler

from dlrun import schedules
from dlrun.errors import ConfigError

PER_EPOCH, EPOCHS = 10, 14
TOTAL = PER_EPOCH * EPOCHS
CONFIGS = Path(__file__).parents[1] / "configs" / "schedule"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def make(name: str, **changes: Any) -> Any:
    node = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | changes
    module, _, attribute = node.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), attribute)(**node)


def factors(schedule: schedules.Schedule, total: int = TOTAL) -> list[float]:
    return [schedule.factor(step, total, PER_EPOCH) for step in range(total)]


def torchs(build: Callable[[SGD], Any], steps: int = TOTAL) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def close(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-6, abs=1e-9)


def test_step_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.StepLR(o, 3, gamma=0.1), EPOCHS)
    assert factors(schedules.Step(every=3, gamma=0.1))[::PER_EPOCH] == close(expected)


def test_step_at_given_places_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.MultiStepLR(o, [2, 5], gamma=0.1), EPOCHS)
    assert factors(schedules.Step(at=[2, 5], gamma=0.1))[::PER_EPOCH] == close(expected)


def test_step_by_share_of_the_run() -> None:
    values = factors(schedules.Step(every=0.5, gamma=0.1))
    assert set(values[: TOTAL // 2]) == {1.0}
    assert set(values[TOTAL // 2 :]) == {0.1}


def test_exponential_is_torchs_at_the_epochs() -> None:
    expected = torchs(lambda o: lr_scheduler.ExponentialLR(o, 0.9), EPOCHS)
    assert factors(schedules.Exponential(gamma=0.9))[::PER_EPOCH] == close(expected)


def test_cosine_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1))
    assert factors(schedules.Cosine(final=0.1)) == close(expected)


def test_linear_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, TOTAL))
    assert factors(schedules.Linear(final=0.2)) == close(expected)


def test_restarts_are_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, TOTAL // 7, T_mult=2))
    assert factors(schedules.CosineRestarts(cycles=3, growth=2)) == close(expected)


def test_restarts_start_again_and_end_low() -> None:
    values = factors(schedules.CosineRestarts(cycles=4, growth=1.0, final=0.01))
    assert [i for i in range(TOTAL) if values[i] == 1.0] == [0, 35, 70, 105]
    assert schedules.CosineRestarts(cycles=4, growth=1.0).factor(TOTAL, TOTAL, PER_EPOCH) == pytest.approx(0)


@pytest.mark.parametrize("share", [0.3, 0.25])
def test_one_cycle_is_torchs(share: float) -> None:
    expected = torchs(
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, TOTAL, pct_start=share, cycle_momentum=False), TOTAL - 1
    )
    assert factors(schedules.OneCycle(warmup=share))[:-1] == close(expected)


def test_plateau_is_torchs() -> None:
    losses = [1.0, 0.9, 0.9, 0.95, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4999999, 0.5, 0.5, 0.5, 0.5]
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, min_lr=0.2)
    ours = schedules.Plateau(gamma=0.5, patience=2, floor=0.2)
    for loss in losses:
        reference.step(loss)
        ours.observe(loss)
        assert ours.factor(5, TOTAL, PER_EPOCH) == optimizer.param_groups[0]["lr"]
    assert ours.level == 0.2


def test_plateau_counts_improvement_for_values_below_zero() -> None:
    """Accuracy is watched as its negative."""
    schedule = schedules.Plateau(patience=0)
    for value in (-0.5, -0.6, -0.7):
        schedule.observe(value)
    assert schedule.level == 1.0
    schedule.observe(-0.7)
    assert schedule.level == 0.5


def test_plateau_goes_on_after_a_resume() -> None:
    first, second = schedules.Plateau(patience=1), schedules.Plateau(patience=1)
    for value in (1.0, 2.0, 2.0, 2.0):
        first.observe(value)
    second.load_state_dict(first.state_dict())
    first.observe(2.0)
    second.observe(2.0)
    assert first.level == second.level == 0.25


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"one_cycle"}))
def test_every_schedule_warms_up_in_a_straight_line(name: str) -> None:
    plain = make(name, warmup=0)
    for warmup in (20, 20 / TOTAL):
        values = factors(make(name, warmup=warmup))
        assert values[:20] == pytest.approx([(step + 1) / 21 for step in range(20)])
        assert values[20:] == close([plain.factor(step, TOTAL - 20, PER_EPOCH) for step in range(TOTAL - 20)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [1, 2, 3, 140])
def test_every_schedule_is_a_factor_between_0_and_1_even_past_the_end(name: str, total: int) -> None:
    schedule = make(name)
    for step in range(total + 3):
        assert 0 <= schedule.factor(step, total, 1) <= 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"plateau"}))
def test_stateless_schedules_take_no_notice(name: str) -> None:
    schedule = make(name)
    before = factors(schedule)
    schedule.observe(1.0)
    assert schedule.state_dict() == {}
    schedule.load_state_dict({})
    assert factors(schedule) == before


def test_a_warmup_longer_than_the_run_still_rises() -> None:
    values = [schedules.Cosine(warmup=500).factor(step, 10, 5) for step in range(10)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    "build",
    [
        lambda: schedules.Cosine(warmup=-1),
        lambda: schedules.OneCycle(warmup=float("nan")),
        lambda: schedules.Exponential(gamma=0),
        lambda: schedules.Plateau(gamma=-1),
        lambda: schedules.Step(every=0),
        lambda: schedules.CosineRestarts(cycles=0),
    ],
)
def test_wrong_settings_are_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        build()

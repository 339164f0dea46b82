"""The share of time for observation holds under a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dlrun.tracking.allowance import Allowance


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


STEPS, STEP = 100_000, 0.01


def simulated(allows: Callable[[Allowance], bool], share: float, cost: float) -> tuple[float, float]:
    """Seconds spent and elapsed when something of ``cost`` seconds wants to be done after each of ``STEPS`` steps."""
    clock = Clock()
    allowance = Allowance(share, clock)
    start = clock.now
    for _ in range(STEPS):
        clock.now += STEP
        if allows(allowance):
            with allowance.spending():
                clock.now += cost
    return allowance.spent, clock.now - start


@pytest.mark.parametrize("share", [0.005, 0.01, 0.09])
@pytest.mark.parametrize("cost", [0.001, 0.05, 2.0])
def test_the_share_holds_and_is_used(share: float, cost: float) -> None:
    spent, elapsed = simulated(Allowance.allows, share, cost)
    assert spent <= share * elapsed + 1e-6
    assert spent >= share * elapsed - 2 * cost - STEP


def test_an_allowance_that_always_allows_breaks_the_share() -> None:
    spent, elapsed = simulated(lambda _: True, 0.01, 0.05)
    assert spent > 0.5 * elapsed


def test_the_first_use_is_allowed_at_once() -> None:
    assert Allowance(0.01, Clock()).allows()


def test_a_second_use_waits_until_both_fit() -> None:
    clock = Clock()
    allowance = Allowance(0.1, clock)
    with allowance.spending():
        clock.now += 1.0
    assert not allowance.allows()
    clock.now += 18.9  # 19.9 s elapsed: two uses of one second want 20
    assert not allowance.allows()
    clock.now += 0.2
    assert allowance.allows()


def test_a_use_that_fails_is_counted() -> None:
    clock = Clock()
    allowance = Allowance(0.1, clock)

    def failing() -> None:
        with allowance.spending():
            clock.now += 3.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert allowance.spent == pytest.approx(3.0)


def test_the_first_use_may_be_expected_to_be_dearer() -> None:
    now = [0.0]
    allowance = Allowance(0.1, lambda: now[0])
    with allowance.spending():
        now[0] += 1.0
    allowance.begin(dearer=3)
    now[0] += 29.0
    assert not allowance.allows()
    now[0] += 2.0
    assert allowance.allows()

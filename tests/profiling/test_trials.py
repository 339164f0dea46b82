"""Ways are compared example by example, by a clock that stands still but for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import pytest
import torch

from dlrun.profiling import trials
from dlrun.profiling.timings import Span
from dlrun.profiling.trials import Trial, Way, compare, endless

CPU = torch.device("cpu")


class Hand:
    at = 0.0

    def perf_counter(self) -> float:
        return self.at


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    found = Hand()
    monkeypatch.setattr(trials, "time", found)
    return found


def way(hand: Hand, seconds: float, examples: float = 10, word: str = "x=1") -> Way:
    def step() -> int:
        hand.at += seconds
        return 1

    return Way((word,), step, examples)


def test_the_gain_is_the_ratio_of_times_an_example(hand: Hand) -> None:
    twice, slower, larger = compare(
        way(hand, 1.0), [way(hand, 0.5), way(hand, 4.0), way(hand, 1.5, examples=20)], CPU, 100
    )
    assert twice.gain == Span(2, 2, 2)
    assert twice.seconds == 0.5
    assert twice.clear
    assert slower.gain.middle == 0.25
    assert not slower.clear
    assert larger.gain.middle == pytest.approx(20 / 15)
    assert larger.seconds == pytest.approx(1.5)


def test_a_way_that_takes_several_steps_at_once_is_measured_by_the_step(hand: Hand) -> None:
    def several() -> int:
        hand.at += 8.0
        return 16

    (found,) = compare(way(hand, 1.0), [Way(("e=1",), several, 10)], CPU, 100)
    assert found.gain.middle == 2
    assert found.seconds == 0.5


def test_a_gain_within_the_noise_is_none(hand: Hand) -> None:
    times = iter([1.0, 0.7] * 1000)

    def step() -> int:
        hand.at += next(times)
        return 1

    (found,) = compare(way(hand, 1.0), [Way(("y=1",), step, 10)], CPU, 0)  # one step in each turn
    assert found.gain.middle != found.gain.low
    assert not Trial(("y=1",), Span(1.2, 1.0, 1.4), 1.0).clear


def test_the_settings_of_a_way_hold_while_it_runs_alone(hand: Hand) -> None:
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    @contextmanager
    def setting() -> Iterator[None]:
        inside.append("on")
        yield
        inside.pop()

    def step() -> int:
        hand.at += 1
        seen.append(tuple(inside))
        return 1

    other = Way(("z=1",), step, 10, setting)
    present = Way((), lambda: step(), 10)
    compare(present, [other], CPU, 0)
    assert set(seen) == {(), ("on",)}
    assert inside == []


def test_epochs_follow_one_another() -> None:
    def epoch(number: int) -> Iterator[int]:
        return iter([10 * number, 10 * number + 1])

    assert list(islice(endless(epoch), 5)) == [0, 1, 10, 11, 20]  # type: ignore[arg-type]

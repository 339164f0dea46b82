"""Data read alone, and what the number of workers would do for a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dlrun.profiling import sources
from dlrun.profiling.sources import Source, best, per_batch


class Hand:
    at = 0.0

    def perf_counter(self) -> float:
        return self.at


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    found = Hand()
    monkeypatch.setattr(sources, "time", found)
    return found


def test_the_start_of_the_workers_is_not_counted(hand: Hand) -> None:
    def epoch(number: int) -> Iterator[Any]:
        for i in range(20):
            hand.at += 100.0 if i < 4 else 0.01
            yield i

    assert per_batch(epoch, 20, first=4) == pytest.approx(0.01)


def test_a_short_epoch_is_counted_whole(hand: Hand) -> None:
    def epoch(number: int) -> Iterator[Any]:
        for i in range(3):
            hand.at += 0.2
            yield i

    assert per_batch(epoch, 3, first=4) == pytest.approx(0.2)


def test_reading_ends_when_it_has_taken_long_enough(hand: Hand) -> None:
    read = []

    def epoch(number: int) -> Iterator[Any]:
        for i in range(1000):
            hand.at += 1.0
            read.append(i)
            yield i

    assert per_batch(epoch, 1000, first=1) == pytest.approx(1.0)
    assert len(read) == 3


def test_workers_read_beside_the_step() -> None:
    assert Source(0, 3.0).step(rest=2.0) == 5
    assert Source(4, 3.0).step(rest=2.0) == 3
    assert Source(4, 1.0).step(rest=2.0) == 2


def test_the_best_number_of_workers_must_be_clearly_better() -> None:
    assert best([Source(0, 3.0), Source(2, 1.0), Source(1, 4.0)], rest=2.0) == (Source(2, 1.0), 2.5)
    assert best([Source(2, 1.0), Source(0, 1.0)], rest=2.0) is None
    assert best([Source(2, 1.0)], rest=2.0) is None
    assert best([], rest=2.0) is None

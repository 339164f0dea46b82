"""Other ways to take the same step, measured against the present one in turns within one process.

A way is only ever recommended by what it measured. What is tried is the step on its batches, without the loop around
it: that part is the same for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median

import torch

from dlrun.profiling.sources import Source
from dlrun.profiling.timings import Span, span
from dlrun.tasks import Batch

ROUNDS, WARM_UP = 7, 3
CLEAR = 1.03  # what even the lower quartile must gain before a gain is spoken of


@dataclass(frozen=True)
class Way:
    """One way to take a step.

    Attributes:
        words: what to write on the command line for it; none for the present way.
        take: takes one step or several; how many.
        examples: in a step.
        within: the settings it runs under, entered for each round anew.
        caution: what else it changes.
    """

    words: tuple[str, ...]
    take: Callable[[], int]
    examples: float
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    caution: str = ""


@dataclass(frozen=True)
class Trial:
    """How many times as fast a way is, example by example; ``seconds`` of its step."""

    words: tuple[str, ...]
    gain: Span
    seconds: float
    caution: str = ""

    @property
    def clear(self) -> bool:
        """Whether it is faster beyond the noise."""
        return self.gain.low > CLEAR


@dataclass
class Trials:
    """What was tried, and what was not and why.

    Attributes:
        sources: data that stream, read by numbers of workers.
        fixed: share of a step's time that would stay if its batch were empty, by the straight line through the times
            of one and of two batches; None where that was not tried.
    """

    tried: list[Trial] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    fixed: float | None = None


def compare(
    present: Way,
    others: Sequence[Way],
    device: torch.device,
    seconds: float,
    tell: Callable[[float, int], None] = lambda share, steps: None,
) -> list[Trial]:
    """Measure ways in turns for so many seconds in all.

    Args:
        tell: told after each turn what share of them is done, and how many steps it took.

    Returns:
        A trial for each of ``others``, in their order: the gains are ratios within one turn.
    """
    ways = [present, *others]
    turns, pieces = list[int](), len(ways) * (1 + ROUNDS)
    for way in ways:
        with way.within():
            _steps(way, WARM_UP, device)
            taken, once = _steps(way, 2, device)
        tell((len(turns) + 1) / pieces, taken)
        turns.append(max(1, round(seconds / ROUNDS / len(ways) / max(once * taken / 2, 1e-7))))
    rounds = []
    for turn in range(ROUNDS):
        order = range(len(ways)) if turn % 2 else reversed(range(len(ways)))  # a drift favours nobody
        found = [0.0] * len(ways)
        for place, i in enumerate(order, start=1):
            with ways[i].within():
                taken, each = _steps(ways[i], turns[i], device)
            found[i] = each / ways[i].examples
            tell(((turn + 1) * len(ways) + place) / pieces, taken)
        rounds.append(found)
    return [
        Trial(
            way.words,
            span([found[0] / found[i] for found in rounds]),
            median(found[i] for found in rounds) * way.examples,
            way.caution,
        )
        for i, way in enumerate(ways)
        if i
    ]


def _steps(way: Way, turns: int, device: torch.device) -> tuple[int, float]:
    """The steps taken in so many turns, and the seconds of one of them."""
    _wait(device)
    started = time.perf_counter()
    steps = sum(way.take() for _ in range(turns))
    _wait(device)
    return steps, (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def endless(epoch: Callable[[int], Iterator[Batch]]) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    number = 0
    while True:
        yield from epoch(number)
        number += 1

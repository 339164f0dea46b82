"""How fast data that stream would come with other numbers of worker processes, read alone, without training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dlrun.build import Experiment
from dlrun.loading import Loaded, make_batches
from dlrun.tasks import Batch

SECONDS, MOST_BATCHES = 1.5, 100  # of one measurement, after the first batches, for which processes start
CLEAR = 1.1


@dataclass(frozen=True)
class Source:
    """Seconds for a batch with so many workers, nothing else going on."""

    workers: int
    seconds: float

    def step(self, rest: float) -> float:
        """Seconds of a step whose rest takes so many: workers read beside it, the process itself before it."""
        return max(rest, self.seconds) if self.workers else rest + self.seconds


def try_sources(experiment: Experiment, loaded: Loaded, cores: int) -> list[Source]:
    """The present number of workers first, then others: none, one for each core; empty where nothing streams."""
    now = loaded.train.workers
    if now is None:
        return []
    found = []
    for count in [now, *sorted({0, 1, cores} - {now})]:
        other = replace(experiment, settings=replace(experiment.settings, workers=count))
        train = make_batches(other, loaded.splits, "train")
        assert train is not None, "there is a training part"
        found.append(Source(count, per_batch(train.epoch, len(train), max(1, 2 * count))))
    return found


def per_batch(epoch: Callable[[int], Iterator[Batch]], batches: int, first: int) -> float:
    """Seconds for a batch, without the ``first`` ones where an epoch has more than twice as many."""
    ahead = first if batches > 2 * first else 0
    started, done = time.perf_counter(), 0
    for _ in epoch(0):
        if ahead:
            ahead -= 1
            started = time.perf_counter()
            continue
        done += 1
        if done >= MOST_BATCHES or time.perf_counter() - started > SECONDS:
            break
    return (time.perf_counter() - started) / max(1, done)


def best(sources: list[Source], rest: float) -> tuple[Source, float] | None:
    """The number of workers with which the step is shortest, and how many times as fast; None where none clearly is.

    Args:
        rest: seconds of a step without its data wait.
    """
    if len(sources) < 2:
        return None
    now, *others = sources
    found = min(others, key=lambda source: source.step(rest))
    gain = now.step(rest) / found.step(rest)
    return (found, gain) if gain > CLEAR else None

"""Whether a pack pays: its first steps against those of one of its trials alone, measured where it is to run.

Nothing here is guessed from sizes: a pack of small networks is ten times as fast as they are one after another, one of
convolutions on a CPU can be half as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dlrun.build import Experiment
from dlrun.loading import Loaded, all_targets
from dlrun.packing.batches import packed_batches
from dlrun.packing.step import PackedStep
from dlrun.session import network
from dlrun.training.average import NoAverage
from dlrun.training.randomness import random_state
from dlrun.training.reporters import Silent

WARM_UP = 3
LEAST_STEPS, LEAST_SECONDS = 5, 0.3  # of one measurement
# Compilation takes 5 to 20 seconds, a second where the same program was compiled before; it is tried where it can pay.
WORTH_COMPILING = 40.0


@dataclass(frozen=True)
class Pace:
    """Seconds for one step of one trial, each way; ``compiled`` is None where it was not tried."""

    alone: float
    packed: float
    compiled: float | None = None

    @property
    def compiles(self) -> bool:
        """Whether the pack is faster compiled."""
        return self.compiled is not None and self.compiled < self.packed

    @property
    def pays(self) -> bool:
        """Whether the pack is faster than its trials one after another."""
        return (self.packed if self.compiled is None else min(self.packed, self.compiled)) < self.alone

    def __str__(self) -> str:
        """In words."""
        compiled = "" if self.compiled is None else f", compiled {self.compiled * 1e6:,.0f}"
        return (
            f"microseconds for a trial's step: {self.packed * 1e6:,.0f} in the pack{compiled}, "
            f"{self.alone * 1e6:,.0f} alone"
        )


def measure(experiments: Sequence[Experiment], loaded: Loaded, steps: int | None) -> Pace:
    """The pace of these trials in a pack and alone; what is built for it is thrown away.

    Args:
        steps: of each trial in all, as far as known: whether it is worth trying to compile.

    Raises:
        Unpackable: they cannot train together.
    """
    lanes, generators = [], []
    for experiment in experiments:
        lanes.append(_algorithm(experiment, loaded))
        generator = torch.Generator()
        generator.set_state(random_state()["torch"])
        generators.append(generator)
    count = len(lanes)
    orders = [loaded.under(experiment.settings.seed).train for experiment in experiments]
    batches, step = packed_batches(orders, 0), PackedStep(lanes, [NoAverage()] * count)
    own = generators if experiments[0].device.type == "cpu" else None
    factors = (1.0,) * count

    def together() -> object:
        return step(next(batches), factors, own)

    packed = timed(together, experiments[0].device) / count
    alone = one_alone(experiments[0], loaded)
    if steps is None or steps * count * packed < WORTH_COMPILING:
        return Pace(alone, packed)
    step.gradient.compiles = True
    while step.gradient.compiles and not step.gradient.programs:  # it waits for a form of batch that comes often
        together()
    compiled = timed(together, experiments[0].device) / count if step.gradient.compiles else None
    return Pace(alone, packed, compiled)


def _algorithm(experiment: Experiment, loaded: Loaded) -> Any:
    targets = all_targets(loaded.splits.train)
    model = network(experiment, targets, loaded.train, None, Silent())
    model.train()
    return experiment.algorithm(model)


def one_alone(experiment: Experiment, loaded: Loaded) -> float:
    """Seconds of one step of a trial alone."""
    algorithm, order = _algorithm(experiment, loaded), loaded.under(experiment.settings.seed).train
    take = experiment.engine.prepare(algorithm)
    batches = packed_batches([order], 0)
    return timed(lambda: take(next(batches).of(0)), experiment.device)


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the median of a few, after a warm-up."""
    for _ in range(WARM_UP):
        step()
    seconds: list[float] = []
    while len(seconds) < LEAST_STEPS or sum(seconds) < LEAST_SECONDS:
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""The phases of an algorithm's step alone, without a trainer around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from dlrun.profiling.clock import Block, Clock, Meter, calibrate
from dlrun.profiling.phases import DATA, Patches, own_phase, patch_algorithm
from dlrun.profiling.timings import Limits, Timings, lengths, summed
from dlrun.tasks import Batch

WARM_UP = 3


def measure_alone(algorithm: Any, batches: Iterator[Batch], limits: Limits, meter: Meter) -> Timings:
    """Take steps on batches as they come; nothing but the step is timed."""
    started = time.perf_counter()
    for _ in range(WARM_UP):
        algorithm.step(next(batches))
    meter.settle()
    each = (time.perf_counter() - started) / WARM_UP
    clock, cost = Clock(meter), calibrate(meter)
    pairs, steps = lengths(limits, each, 1)
    bare, stamped = list[Block](), list[Block]()
    for _ in range(pairs):
        clock.start(detailed=False)
        for _ in range(steps):
            algorithm.step(next(batches))
        bare.append(clock.stop(steps))
        stamped.append(_stamped(clock, algorithm, batches, steps))
    return summed(bare, stamped, cost)


def _stamped(clock: Clock, algorithm: Any, batches: Iterator[Batch], steps: int) -> Block:
    patches = Patches()
    patch_algorithm(patches, clock, algorithm)
    step = clock.spanned(own_phase(algorithm), algorithm.step)
    come = clock.spanned(DATA, batches.__next__)
    try:
        clock.start()
        for _ in range(steps):
            step(come())
        return clock.stop(steps)
    finally:
        patches.undo()

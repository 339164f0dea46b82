"""A clock that gives every instant of a block of steps to exactly one phase, so that the phases add up by construction.

Nested phases take their time from the one around them. The time line is the host's (``perf_counter``) or, on CUDA, the
device's: events on its stream, read when the block has ended, so that nothing waits for the device within it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

Key = tuple[str, str]  # (group, name); the group is "" but for networks that take turns and for rare occasions
ROOT: Key = ("", "loop")


class Meter(Protocol):
    """What a clock reads."""

    def stamp(self) -> Any:
        """This instant."""
        ...

    def amount(self, first: Any, last: Any) -> float:
        """What lies between two stamps; after ``settle``."""
        ...

    def settle(self) -> None:
        """Wait until everything that was stamped has happened."""
        ...


class HostMeter:
    """Seconds of the process.

    Args:
        now: seconds that only grow; replaced in tests.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.stamp = now

    def amount(self, first: Any, last: Any) -> float:
        """Seconds between two stamps."""
        return float(last - first)

    def settle(self) -> None:
        """Nothing is under way."""


class DeviceMeter:
    """Seconds on a CUDA stream: a phase is charged what the device needed for it, or how long it stood idle for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stamp(self) -> Any:
        """An event after everything that was asked of the device so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def amount(self, first: Any, last: Any) -> float:
        """Seconds between two events."""
        return float(first.elapsed_time(last)) / 1e3

    def settle(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)


def meter_of(device: torch.device) -> Meter:
    """The meter of the time line that a run on this device waits for."""
    return DeviceMeter(device) if device.type == "cuda" else HostMeter()


@dataclass
class Block:
    """What consecutive steps took.

    Attributes:
        steps: how many.
        amounts: of each phase, without the phases inside it.
        spans: how often each phase was entered.
        inside: how often another phase was entered from it.
    """

    steps: int = 0
    amounts: dict[Key, float] = field(default_factory=lambda: defaultdict(float))
    spans: Counter[Key] = field(default_factory=Counter)
    inside: Counter[Key] = field(default_factory=Counter)

    @property
    def whole(self) -> float:
        """All phases together: the whole time of the block."""
        return sum(self.amounts.values())


class Clock:
    """Stamps the borders between phases.

    Attributes:
        running: between ``start`` and ``stop``.
        detailed: whether the phases of every step are wanted, or the rare ones alone.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.running = self.detailed = False
        self._stack: list[Key] = [ROOT]
        self._marks: list[tuple[Key, Any, Key | None]] = []

    def start(self, detailed: bool = True) -> None:
        """Begin a block; the device has nothing left to do then."""
        self.meter.settle()
        self._stack = [ROOT]
        self._marks = [(ROOT, self.meter.stamp(), None)]
        self.running, self.detailed = True, detailed

    def enter(self, key: Key) -> None:
        """A phase begins."""
        self._marks.append((self._stack[-1], self.meter.stamp(), key))
        self._stack.append(key)

    def leave(self) -> None:
        """The phase entered last ends."""
        self._marks.append((self._stack.pop(), self.meter.stamp(), None))

    def stop(self, steps: int) -> Block:
        """End the block of so many steps and read it."""
        self._marks.append((self._stack[-1], self.meter.stamp(), None))
        self.running = self.detailed = False
        self.meter.settle()
        block, before = Block(steps), self._marks[0][1]
        for key, stamp, entered in self._marks[1:]:
            block.amounts[key] += self.meter.amount(before, stamp)
            before = stamp
            if entered is not None:
                block.spans[entered] += 1
                block.inside[key] += 1
        self._marks = []
        return block

    def spanned(self, key: Key, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` as a phase; to be used while a block is on alone."""
        enter, leave = self.enter, self.leave

        def timed(*args: Any, **kwargs: Any) -> Any:
            enter(key)
            try:
                return call(*args, **kwargs)
            finally:
                leave()

        return timed

    def rarely(self, key: Key, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` as a phase that is told from the others in every block; outside of blocks as it is."""
        timed = self.spanned(key, call)

        def chosen(*args: Any, **kwargs: Any) -> Any:
            return (timed if self.running else call)(*args, **kwargs)

        return chosen


@dataclass(frozen=True)
class Cost:
    """What entering and leaving a phase costs: within the phase's own stamps, and outside them, in the one around."""

    within: float = 0.0
    around: float = 0.0

    def of(self, block: Block, key: Key) -> float:
        """The part of a phase's amount that is the clock's own."""
        return self.within * block.spans[key] + self.around * block.inside[key]


CALLS, ROUNDS = 300, 7


def calibrate(meter: Meter) -> Cost:
    """The cost of a phase around nothing, against the same call without a phase; medians of a few rounds."""
    clock, key = Clock(meter), ("", "nothing")

    def nothing() -> None:
        return None

    def loop(call: Callable[[], Any]) -> Block:
        clock.start()
        for _ in range(CALLS):
            call()
        return clock.stop(CALLS)

    timed = clock.spanned(key, nothing)
    within, around = [], []
    for _ in range(ROUNDS):
        bare = loop(nothing).whole / CALLS
        block = loop(timed)
        within.append(block.amounts[key] / CALLS)
        around.append(max(0.0, block.amounts[ROOT] / CALLS - bare))
    return Cost(median(within), median(around))

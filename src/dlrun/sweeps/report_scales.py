"""Where a value stands on an axis of the report, and in which colour: scales, ticks, viridis."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlrun.sweeps.nouns import Axis, PointResult, SweepResult

LEVELS = 14  # colours from the worst to the best
# Viridis. On white the best is the darkest, on black the brightest: the best always stands out the most.
_VIRIDIS = (
    "#440154", "#481a6c", "#472f7d", "#414487", "#39568c", "#31688e", "#2a788e", "#23888e",
    "#1f988b", "#22a884", "#35b779", "#54c568", "#7ad151", "#a5db36", "#d2e21b", "#fde725",
)  # fmt: skip
LIGHT = _VIRIDIS[LEVELS - 1 :: -1]
DARK = _VIRIDIS[-LEVELS:]

_DECADES = 100.0  # a ratio from which a logarithmic scale reads better
_CROWDED = 0.06  # of the axis: listed numbers closer than this are spread evenly instead
_FENCE = 3.0  # interquartile ranges beyond which a bad value would squeeze all others


@dataclass(frozen=True)
class Scale:
    """From values to places between 0 and 1.

    Attributes:
        kind: ``linear``, ``log`` or ``list``.
        low: the value at 0, of numbers.
        high: the value at 1, of numbers.
        names: the values in their order, of a list; or the numbers that get a tick each.
    """

    kind: str
    low: float = 0.0
    high: float = 1.0
    names: tuple[str, ...] = ()

    def place(self, value: str | float) -> float:
        """Between 0 and 1; what lies beyond an end stands at the end."""
        if self.kind == "list":
            return (self.names.index(str(value)) + 0.5) / len(self.names)
        number = self._bent(min(max(float(value), self.low), self.high))
        return (number - self._bent(self.low)) / (self._bent(self.high) - self._bent(self.low))

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Place and label of about ``count`` round numbers; of a list every name that has room (``count`` of them)."""
        if self.kind == "list":
            stride = math.ceil(len(self.names) / max(count, 1))
            return [(self.place(name), name) for name in self.names[::stride]]
        if self.names:
            return [(self.place(name), short(float(name))) for name in self.names]
        numbers = _decades(self.low, self.high, count) if self.kind == "log" else _round(self.low, self.high, count)
        return [(self.place(number), short(number)) for number in numbers]

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.kind == "log" else value


@dataclass(frozen=True)
class Column:
    """A swept key as the charts show it: ``optimizer.lr`` is ``lr`` of ``optimizer``."""

    key: str
    scale: Scale
    gaps: bool

    @property
    def group(self) -> str:
        """What stands before the last dot."""
        return self.key.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """What stands after it."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Colours:
    """The colour of a value of the metric.

    Attributes:
        worst: the value with the first colour; worse ones have it too.
        best: the value with the last colour.
    """

    worst: float
    best: float

    def level(self, value: float) -> int:
        """From 0 to LEVELS - 1."""
        if self.best == self.worst:
            return LEVELS - 1
        share = (value - self.worst) / (self.best - self.worst)
        return round(min(max(share, 0.0), 1.0) * (LEVELS - 1))


def columns(result: SweepResult, points: Sequence[PointResult]) -> list[Column]:
    """Each axis on which ``points`` differ."""
    found = []
    for axis in {axis.key: axis for axis in result.space.axes}.values():
        values = [point.point.values[axis.key] for point in points if axis.key in point.point.values]
        gaps = len(values) < len(points)
        if len(set(values)) > 1 or (values and gaps):
            found.append(Column(axis.key, _axis_scale(axis, values), gaps))
    return found


def metric_scale(values: Sequence[float], higher_is_better: bool) -> Scale:
    """A scale for these values of the metric that a few very bad ones do not squeeze."""
    kind = "log" if values and min(values) > 0 and _ratio(values) > _DECADES else "linear"
    bent = [math.log10(value) if kind == "log" else value for value in values]
    low, high = min(bent, default=0.0), max(bent, default=1.0)
    if len(bent) >= 8:
        first, _, third = statistics.quantiles(bent, n=4, method="inclusive")
        reach = _FENCE * (third - first)
        if reach and higher_is_better:
            low = max(low, first - reach)
        elif reach:
            high = min(high, third + reach)
    room = 0.05 * (high - low) or abs(high) * 0.05 or 0.5
    low, high = low - room, high + room
    return Scale(kind, 10**low, 10**high) if kind == "log" else Scale(kind, low, high)


def metric_colours(values: Sequence[float], higher_is_better: bool) -> Colours:
    """Colours over the better three quarters of these values, so that neighbours near the best can be told apart."""
    ordered = sorted(values, reverse=not higher_is_better)
    if not ordered:
        return Colours(0.0, 1.0)
    return Colours(ordered[len(ordered) // 4], ordered[-1])


def short(value: float) -> str:
    """A number for a tick: 0.05, 250, 12k, 3M, 1e-5."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    text = f"{value:.4g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _axis_scale(axis: Axis, values: Sequence[str]) -> Scale:
    numbers = None if axis.group else _all_numbers(values)
    distinct = sorted(set(values), key=lambda text: axis.values.index(text) if text in axis.values else -1)
    if numbers is None or len(set(numbers)) < 2:
        return Scale("list", names=tuple(distinct))
    ends = numbers if axis.finite else [axis.low or 0.0, axis.high or 0.0]
    log = axis.log or (min(ends) > 0 and _ratio(ends) > _DECADES)
    bent = sorted({math.log10(number) if log and number > 0 else number for number in numbers})
    if log and min(numbers) <= 0:
        log, bent = False, sorted(set(numbers))
    room = 0.03 * (bent[-1] - bent[0])
    low, high = bent[0] - room, bent[-1] + room
    kind = "log" if log else "linear"
    low_end, high_end = (10**low, 10**high) if log else (low, high)
    if not axis.finite or len(bent) > 8:
        return Scale(kind, low_end, high_end)
    if min(b - a for a, b in itertools.pairwise(bent)) < _CROWDED * (high - low):
        return Scale("list", names=tuple(sorted(distinct, key=float)))
    return Scale(kind, low_end, high_end, names=tuple(sorted(distinct, key=float)))


def _all_numbers(values: Iterable[str]) -> list[float] | None:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _ratio(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _round(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def _decades(low: float, high: float, count: int) -> list[float]:
    """Powers of ten, and their multiples by 2 and 5 where those are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for times in ((1, 2, 5), (1, 3), (1,)):
        found = [10.0**power * by for power in range(first, last + 1) for by in times]
        found = [number for number in found if low <= number * 1.000001 and number <= high * 1.000001]
        if len(found) <= count + 1:
            break
    if len(found) < 2:
        return _round(low, high, count)
    return found[:: math.ceil(len(found) / (count + 1))]

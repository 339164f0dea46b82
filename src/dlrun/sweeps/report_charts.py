"""The report's charts as SVG text: parallel coordinates, slices, learning curves.

Whatever belongs to point 12 has ``data-p="12"``, by which report.js joins the charts and the table; ``k0`` to ``k13``
are the colours from the worst to the best, ``off`` is a point that was pruned. Sizes are in SVG units, about pixels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from itertools import accumulate
from typing import TypeVar

from dlrun.sweeps.nouns import DONE, PRUNED, PointResult, SweepResult
from dlrun.sweeps.report_scales import Colours, Column, Scale, columns, metric_colours, metric_scale, short
from dlrun.sweeps.results import curve

CURVES = 60  # learning curves drawn
CURVE_POINTS = 150
DOTS = 12_000  # in all slices together; beyond, a dot is a point instead of a trial

_WIDE, _SPACE = 1120, 124  # the least width of the wide charts; width of one axis of the parallel coordinates
_SLICE, _PROGRESS, _CURVES_SIZE = (340, 230), (580, 240), (1120, 400)

_Item = TypeVar("_Item")


def worth(point: PointResult) -> float | None:
    """The mean; of a pruned point the value it was pruned at."""
    if point.mean is not None:
        return point.mean
    values = [trial.value for trial in point.trials if trial.status == PRUNED and trial.value is not None]
    return values[0] if point.state == PRUNED and values and math.isfinite(values[0]) else None


class Charts:
    """All charts of one sweep, in the same scales and colours.

    Attributes:
        shown: the points that have a value, the worst first, so that the best are drawn on top.
        columns: the axes on which they differ.
        beyond: whether some values are so far from the others that they stand at the charts' edge.
    """

    def __init__(self, result: SweepResult) -> None:
        ranked = result.ranked()
        pruned = [point for point in result.points if point.mean is None and worth(point) is not None]
        self.result = result
        self.shown = [*pruned, *reversed(ranked)]
        self.columns = columns(result, self.shown)
        means = [point.mean for point in ranked if point.mean is not None]
        self.colours: Colours = metric_colours(means, result.higher_is_better)
        values = [value for point in self.shown if (value := worth(point)) is not None]
        single = [t.value for point in ranked for t in point.trials if t.status == DONE and t.value is not None]
        values += filter(math.isfinite, single)
        self.scale: Scale = metric_scale(values, result.higher_is_better)
        self.beyond = any(not self.scale.low <= value <= self.scale.high for value in values)

    def level(self, point: PointResult) -> str:
        """The class of the point's colour."""
        if point.mean is None:
            return "off"
        return f"k{self.colours.level(point.mean)}" + (" top" if point is self.shown[-1] else "")

    def parallel(self) -> str:
        """One line per point through its values and the metric; empty when nothing was swept or nothing is done."""
        if not self.columns or not self.shown:
            return ""
        top, bottom, height = 58, 352, 392
        left, right = 104, 62
        width = max(_WIDE, left + right + _SPACE * len(self.columns))
        stride = (width - left - right) / len(self.columns)
        xs = [left + i * stride for i in range(len(self.columns) + 1)]
        lines, axes = [], []
        for point in self.shown:
            spots = [_spot(point, column, top, bottom) for column in self.columns]
            spots.append(bottom - self.scale.place(worth(point) or 0.0) * (bottom - top))
            path = "L".join(f"{x:.0f},{y:.0f}" for x, y in zip(xs, spots, strict=True))
            lines.append(f'<path data-p="{point.number}" class="{self.level(point)}" d="M{path}"/>')
        for x, column in zip(xs, self.columns, strict=False):
            axes.append(
                _vertical(
                    x,
                    top,
                    bottom,
                    column.scale.ticks(16 if column.scale.kind == "list" else 8),
                    column.group,
                    column.leaf,
                )
            )
            if column.gaps:
                axes.append(f'<text class="gap" x="{x - 7:.0f}" y="{bottom + 30}">absent</text>')
        part, _, name = self.result.metric.rpartition("/")
        better = "\u2191" if self.result.higher_is_better else "\u2193"
        axes.append(_vertical(xs[-1], top, bottom, self.scale.ticks(6), part, f"{name} {better}", "metric"))
        return _svg(width, height, f'<g class="lines">{"".join(lines)}</g>{"".join(axes)}', "parallel", "Parallel axes")

    def slices(self) -> list[str]:
        """The metric against each axis; numeric ones first as they are swept."""
        trials = sum(len(point.trials) for point in self.shown)
        every = trials * len(self.columns) <= DOTS
        return [self._slice(column, every) for column in self.columns]

    def progress(self) -> str:
        """The metric against the point's number, with the best so far as a line; empty when nothing is done."""
        ranked = sorted(self.result.ranked(), key=lambda point: point.number)
        if not ranked:
            return ""
        last = max(point.number for point in self.result.points)
        across = Scale("linear", -0.5, last + 0.5)
        choose = max if self.result.higher_is_better else min
        best = list(accumulate((point.mean or 0.0 for point in ranked), choose))
        frame = _Frame(across, self.scale, *_PROGRESS)
        steps = "".join(
            f"H{frame.x(point.number):.1f}V{frame.y(value):.1f}" for point, value in zip(ranked, best, strict=True)
        )
        line = f'<path class="mean" d="M{frame.x(ranked[0].number):.1f},{frame.y(best[0]):.1f}{steps}H{frame.right}"/>'
        dots = [
            _dot(point, frame.x(point.number), frame.y(worth(point) or 0.0), self.level(point)) for point in self.shown
        ]
        return frame.svg("".join([line, *dots]), "point, in the order of trying", self.result.metric, "slice")

    def curves(self) -> tuple[str, int, bool]:
        """The metric against the step, how many trials' curves are not drawn, and whether some run along the edge."""
        order = [(point, trial) for point in reversed(self.shown) for trial in point.trials]
        chosen = _spread(order, CURVES)
        drawn = [(point, curve(trial.folder, self.result.metric)) for point, trial in chosen]
        drawn = [(point, _thinned(pairs)) for point, pairs in drawn if pairs]
        if not drawn:
            return "", 0, False
        higher = self.result.higher_is_better
        values = _settled([[value for _, value in pairs] for _, pairs in drawn])
        last = max(step for _, pairs in drawn for step, _ in pairs) or 1.0
        up = metric_scale(values, higher)
        frame = _Frame(Scale("linear", 0.0, last * 1.02), up, *_CURVES_SIZE)
        beyond = any(not up.low <= value <= up.high for _, pairs in drawn for _, value in pairs)
        lines = []
        for point, pairs in reversed(drawn):
            path = "L".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in pairs)
            level = self.level(point)
            lines.append(f'<path data-p="{point.number}" class="{level}" d="M{path}"/>')
            if level == "off":
                x, y = (float(part) for part in path.rpartition("L")[2].split(","))
                lines.append(f'<path class="off cut" d="M{x - 3:.1f},{y - 3:.1f}l6,6m0,-6l-6,6"/>')
        inside = f'<g class="lines">{"".join(lines)}</g>'
        return frame.svg(inside, "step", self.result.metric, "curves"), len(order) - len(chosen), beyond

    def _slice(self, column: Column, every: bool) -> str:
        frame = _Frame(column.scale, self.scale, *_SLICE)
        dots: list[str] = []
        by_name: dict[str, list[float]] = {}
        listed = column.scale.kind == "list"
        room = min(42.0, 140 / len(column.scale.names)) if listed else 8.0 if column.scale.names else 0.0
        for point in self.shown:
            if column.key not in point.point.values:
                continue
            text = point.point.values[column.key]
            if point.mean is not None:
                by_name.setdefault(text, []).append(point.mean)
            # Dots of one value side by side, always the same way: the number decides.
            shift = (point.number * 0.618034 % 1 - 0.5) * room
            x, level = frame.x(text) + shift, self.level(point)
            dots += [_dot(point, x, frame.y(value), level) for value in _values(point, every)]
        if listed:
            for text, means in by_name.items():
                mean = statistics.fmean(means)
                half = min(17.0, 0.4 * room)
                where = f"M{frame.x(text) - half:.1f},{frame.y(mean):.1f}h{2 * half:.1f}"
                dots.append(f'<path class="mean" d="{where}"><title>mean {short(mean)}</title></path>')
        return frame.svg("".join(dots), column.key, self.result.metric, "slice")


class _Frame:
    """A chart's rectangle with its two scales, ticks and names."""

    def __init__(self, across: Scale, up: Scale, width: int, height: int) -> None:
        self.across, self.up = across, up
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 52, width - 12, 24, height - 42

    def x(self, value: str | float) -> float:
        return self.left + self.across.place(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.up.place(value) * (self.bottom - self.top)

    def svg(self, inside: str, across: str, up: str, name: str) -> str:
        parts = []
        for place, text in self.up.ticks(5):
            y = self.bottom - place * (self.bottom - self.top)
            parts.append(f'<path class="grid" d="M{self.left},{y:.1f}H{self.right}"/>')
            parts.append(f'<text class="tick end" x="{self.left - 6}" y="{y + 4:.1f}">{escape(text)}</text>')
        room = max(2, (self.right - self.left) // 48)
        ticks = self.across.ticks(room)
        most = max(4, round((self.right - self.left) / max(len(ticks), 1) / 7.5))
        for place, text in ticks:
            x = self.left + place * (self.right - self.left)
            parts.append(f'<path class="axis" d="M{x:.1f},{self.bottom}v4"/>')
            parts.append(f'<text class="tick mid" x="{x:.1f}" y="{self.bottom + 17}">{_cut(text, most)}</text>')
        parts.append(f'<path class="axis" d="M{self.left},{self.bottom}H{self.right}"/>')
        middle = (self.left + self.right) / 2
        parts.append(f'<text class="name mid" x="{middle:.0f}" y="{self.height - 6}">{_cut(across, 44)}</text>')
        parts.append(f'<text class="name" x="6" y="14">{_cut(up, 40)}</text>')
        return _svg(self.width, self.height, "".join(parts) + inside, name, f"{up} against {across}")


def _vertical(
    x: float, top: float, bottom: float, ticks: Iterable[tuple[float, str]], group: str, leaf: str, kind: str = ""
) -> str:
    """One axis of the parallel coordinates with its two-line heading; the metric, the last, has its ticks outside."""
    side, end = (1, "") if kind else (-1, "end")
    parts = [f'<path class="axis" d="M{x:.0f},{top}V{bottom}"/>']
    for place, text in ticks:
        y = bottom - place * (bottom - top)
        parts.append(f'<path class="axis" d="M{x:.0f},{y:.1f}h{4 * side}"/>')
        parts.append(f'<text class="tick {end}" x="{x + 7 * side:.0f}" y="{y + 4:.1f}">{_cut(text, 12)}</text>')
    parts.append(f'<text class="group mid" x="{x:.0f}" y="{top - 34}">{_cut(group, 18)}</text>')
    parts.append(f'<text class="leaf mid" x="{x:.0f}" y="{top - 18}">{_cut(leaf, 16)}</text>')
    return f'<g class="column {kind}" data-x="{x:.0f}">{"".join(parts)}</g>'


def _spot(point: PointResult, column: Column, top: float, bottom: float) -> float:
    """The height at which a point passes an axis; below it where the point has no such key."""
    if column.key not in point.point.values:
        return bottom + 26
    return bottom - column.scale.place(point.point.values[column.key]) * (bottom - top)


def _dot(point: PointResult, x: float, y: float, level: str) -> str:
    size = "2.5" if level == "off" else "3.5"
    return f'<circle data-p="{point.number}" class="{level}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'


def _values(point: PointResult, every: bool) -> list[float]:
    """The value of each trial that is done, or one for the point."""
    one = [value] if (value := worth(point)) is not None else []
    if point.mean is None or not every:
        return one
    return [t.value for t in point.trials if t.status == DONE and t.value is not None and math.isfinite(t.value)]


def _spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """All items, or the first two thirds of ``most`` and the rest evenly from the others."""
    if len(items) <= most:
        return list(items)
    head = most * 2 // 3
    others, wanted = items[head:], most - head
    return [*items[:head], *(others[i * len(others) // wanted] for i in range(wanted))]


def _settled(curves: Sequence[Sequence[float]]) -> list[float]:
    """The values to choose a scale by: without those before training where they alone would double its length."""
    every = [value for values in curves for value in values]
    later = [value for values in curves for value in values[1:]] or every
    return later if max(every) - min(every) > 2 * (max(later) - min(later)) else every


def _thinned(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about CURVE_POINTS of them, the last one included."""
    stride = math.ceil(len(pairs) / CURVE_POINTS)
    return [*pairs[:-1:stride], pairs[-1]]


def _cut(text: str, most: int) -> str:
    """At most ``most`` letters, escaped; the whole text is shown where the mouse rests."""
    if len(text) <= most:
        return escape(text)
    tail = (most - 1) // 2  # names that begin alike often differ at their end
    return f"{escape(text[: most - 1 - tail])}\u2026{escape(text[len(text) - tail :])}<title>{escape(text)}</title>"


def _svg(width: float, height: float, inside: str, name: str, title: str) -> str:
    box = f"0 0 {width:.0f} {height:.0f}"
    return f'<svg class="{name}" viewBox="{box}" role="img" aria-label="{escape(title)}">{inside}</svg>'

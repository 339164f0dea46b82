"""Plots against a number: learning curves, and predicted against true values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlrun.tracking.canvas import BLUE, INK, MUTED, SERIES, Axes, Colour, blank, fitted, font, mixed, ticks

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Curve = Sequence[tuple[int, float]]

SCALE = 2
PANEL = (500, 360)
COLOURS: dict[str, Colour] = {"train": SERIES[1], "val": SERIES[0], "test": SERIES[2]}


def learning_curves(curves: Mapping[str, Curve], metric: str) -> Image | None:
    """The loss and one metric against the step, side by side; None when neither has a point.

    Args:
        curves: ``split/key`` to its (step, value) pairs in the order of the steps.
        metric: the key of the second panel, ``accuracy`` for example.
    """
    from PIL.Image import Resampling

    panels = []
    for key in dict.fromkeys(["loss", metric]):
        chosen = {split: _finite(curves.get(f"{split}/{key}", ())) for split in COLOURS}
        if any(chosen.values()):
            panels.append((key, {split: _thinned(curve) for split, curve in chosen.items() if curve}))
    if not panels:
        return None
    image, pen = blank(PANEL[0] * SCALE * len(panels), PANEL[1] * SCALE)
    for i, (key, chosen) in enumerate(panels):
        _panel(pen, i * PANEL[0] * SCALE, key, chosen)
    return image.resize((PANEL[0] * len(panels), PANEL[1]), Resampling.BOX)


def scatter(predicted: Tensor, true: Tensor, name: str) -> Image:
    """Predicted (N,) against true (N,) values, with the line on which they are equal."""
    from PIL.Image import Resampling

    kept = torch.isfinite(predicted) & torch.isfinite(true)
    stride = max(1, math.ceil(int(kept.sum()) / 2000))
    x, y = true[kept].float(), predicted[kept].float()
    low, high = _padded(min([*x.tolist(), *y.tolist()], default=0.0), max([*x.tolist(), *y.tolist()], default=1.0))
    axes = Axes(66 * SCALE, 44 * SCALE, 446 * SCALE, 424 * SCALE, (low, high), (low, high))
    image, pen = blank(470 * SCALE, 480 * SCALE)
    axes.draw(pen, 12 * SCALE)
    pen.line([(axes.x(low), axes.y(low)), (axes.x(high), axes.y(high))], fill=MUTED, width=SCALE)
    radius = 2.5 * SCALE
    for px, py in zip(x[::stride].tolist(), y[::stride].tolist(), strict=True):
        column, row = axes.x(px), axes.y(py)
        pen.ellipse((column - radius, row - radius, column + radius, row + radius), fill=mixed(BLUE, 0.65))
    spread = ((x - x.mean()) ** 2).sum().clamp(min=1e-12) if len(x) else torch.tensor(1.0)
    title = f"{fitted(name, 220 * SCALE, 16 * SCALE)}   R2 {1 - (((x - y) ** 2).sum() / spread).item():.3f}"
    pen.text((axes.left, 20 * SCALE), title, fill=INK, font=font(16 * SCALE), anchor="lm")
    pen.text((axes.right, 452 * SCALE), "true value", fill=MUTED, font=font(13 * SCALE), anchor="rm")
    pen.text((axes.right, 20 * SCALE), "predicted (up)", fill=MUTED, font=font(13 * SCALE), anchor="rm")
    return image.resize((470, 480), Resampling.BOX)


def _panel(pen: ImageDraw, left: int, key: str, chosen: dict[str, Curve]) -> None:
    values = [value for curve in chosen.values() for _, value in curve]
    steps = [step for curve in chosen.values() for step, _ in curve]
    log = min(values) > 0 and max(values) / min(values) > 100
    y_range = (min(values) / 1.2, max(values) * 1.2) if log else _padded(min(values), max(values))
    x_range = (float(min(0, *steps)), float(max(1, *steps)))
    width, height = PANEL
    box = (left + 66 * SCALE, 48 * SCALE, left + (width - 22) * SCALE, (height - 46) * SCALE)
    axes = Axes(*box, x_range, y_range, log)
    axes.draw(pen, 12 * SCALE)
    for split, curve in chosen.items():
        _line(pen, axes, curve, COLOURS[split])
    pen.text((axes.left, 24 * SCALE), key, fill=INK, font=font(17 * SCALE), anchor="lm")
    pen.text((axes.right, axes.bottom + 32 * SCALE), "step", fill=MUTED, font=font(12 * SCALE), anchor="rm")
    x: float = axes.right
    for split in reversed(list(chosen)):
        x -= font(13 * SCALE).getlength(split)
        pen.text((x, 24 * SCALE), split, fill=INK, font=font(13 * SCALE), anchor="lm")
        pen.rectangle((x - 22 * SCALE, 22.5 * SCALE, x - 6 * SCALE, 25.5 * SCALE), fill=COLOURS[split])
        x -= 40 * SCALE


def _line(pen: ImageDraw, axes: Axes, curve: Curve, colour: Colour) -> None:
    points = [(axes.x(step), axes.y(value)) for step, value in curve]
    if len(points) > 1:
        pen.line(points, fill=colour, width=2 * SCALE, joint="curve")
    if len(points) <= 40:
        radius = 3 * SCALE
        for x, y in points:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _finite(curve: Curve) -> Curve:
    return [(step, value) for step, value in curve if math.isfinite(value)]


def _thinned(curve: Curve, most: int = 500) -> Curve:
    """Means of neighbours when there are more points than the panel has columns."""
    size = math.ceil(len(curve) / most)
    if size <= 1:
        return curve
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range widened so that a curve does not touch the frame, from one round number to another where close."""
    margin = 0.05 * (high - low) or 0.05 * max(1.0, abs(high))
    steps = ticks(low - margin, high + margin)
    return min(low - margin, steps[0]), max(high + margin, steps[-1])

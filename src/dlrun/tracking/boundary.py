"""The plane as a network sees it: its output at every point, with the training points on top.

After TensorFlow Playground (Smilkov et al. 2017): orange is the first class or negative, blue the second or positive.
More than two classes get a colour each, mixed by their probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlrun.tracking.canvas import (
    INK,
    MUTED,
    PALE,
    SERIES,
    WHITE,
    Axes,
    Colour,
    blank,
    diverging,
    fitted,
    font,
    mixed,
    number,
    raster,
)  # fmt: skip

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

GRID = 100
SIDE = 300
SCALE = 2
MOST_POINTS = 1500


def extent(points: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Range of both axes for points (N, 2): -6..6 as in Playground where that suits, else the data's with a margin."""
    low, high = points.amin(0), points.amax(0)
    if 3 <= points.abs().max() <= 6:
        return (-6.0, 6.0), (-6.0, 6.0)
    margin = ((high - low) * 0.12).clamp(min=1e-3)
    (x0, y0), (x1, y1) = (low - margin).tolist(), (high + margin).tolist()
    return (x0, x1), (y0, y1)


def plane(x_range: tuple[float, float], y_range: tuple[float, float], size: int = GRID) -> Tensor:
    """Points (size * size, 2) at the centres of a grid, the top row first."""
    centres = (torch.arange(size) + 0.5) / size
    xs = x_range[0] + (x_range[1] - x_range[0]) * centres
    ys = y_range[1] - (y_range[1] - y_range[0]) * centres
    rows, columns = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=1)


def classification(
    points: Tensor, labels: Tensor, names: Sequence[str], probabilities: Callable[[Tensor], Tensor]
) -> Image:
    """The boundary between classes.

    Args:
        points: training inputs (N, 2) on the CPU.
        labels: their classes (N,).
        names: K class names.
        probabilities: maps points (M, 2) to (M, K).
    """
    x_range, y_range = extent(points)
    p = probabilities(plane(x_range, y_range)).float().cpu()
    palette = [SERIES[k % len(SERIES)] for k in range(len(names))]
    if len(names) == 2:
        colours = diverging(p[:, 1] * 2 - 1)
    else:
        colours = (p @ torch.tensor([mixed(c, 0.75) for c in palette], dtype=torch.float32)).round().byte()
    image = _drawn(colours, points, [palette[k] for k in labels.tolist()], Axes(*_BOX, x_range, y_range))
    _class_legend(image, names, palette)
    return image


def regression(points: Tensor, values: Tensor, name: str, predict: Callable[[Tensor], Tensor]) -> Image:
    """The predicted value over the plane, with each training point in the colour of its true value.

    Args:
        points: training inputs (N, 2) on the CPU.
        values: their targets (N,).
        name: what is predicted.
        predict: maps points (M, 2) to values (M,).
    """
    x_range, y_range = extent(points)
    low, high = values.min().item(), values.max().item()
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-8)
    if low < 0 < high:
        middle, half = 0.0, max(-low, high)
    colours = diverging((predict(plane(x_range, y_range)).float().cpu() - middle) / half)
    dots = [(r, g, b) for r, g, b in diverging((values - middle) / half).tolist()]
    image = _drawn(colours, points, dots, Axes(*_BOX, x_range, y_range))
    _value_legend(image, name, middle - half, middle + half)
    return image


_BOX = (40 * SCALE, 16 * SCALE, (40 + SIDE) * SCALE, (16 + SIDE) * SCALE)
_SIZE = (40 + SIDE + 20, 16 + SIDE + 70)


def _drawn(colours: Tensor, points: Tensor, dots: list[Colour], axes: Axes) -> Image:
    """The plane, axes and points, drawn twice as large and shrunk, which smooths the edges."""
    from PIL.Image import Resampling

    size = math.isqrt(len(colours))
    image, pen = blank(_SIZE[0] * SCALE, _SIZE[1] * SCALE)
    softened = 255 - ((255 - colours.float()) * 0.8).round().byte()  # so that points of the same colour stand out
    background = raster(softened.reshape(size, size, 3)).resize((SIDE * SCALE, SIDE * SCALE), Resampling.BICUBIC)
    image.paste(background, (axes.left, axes.top))
    axes.draw(pen, 12 * SCALE, grid=False)
    # Evenly spaced examples when there are too many: which ones are drawn must not need a random number.
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    radius = (3.2 if len(points) <= 600 else 2.4) * SCALE
    for (px, py), colour in zip(points[::stride].tolist(), dots[::stride], strict=True):
        _dot(pen, axes.x(px), axes.y(py), radius, colour)
    pen.rectangle((axes.left, axes.top, axes.right, axes.bottom), outline=MUTED, width=SCALE)
    return image.resize(_SIZE, Resampling.BOX)


def _dot(pen: ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=WHITE, width=SCALE)


def _class_legend(image: Image, names: Sequence[str], palette: Sequence[Colour]) -> None:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    x, y = 40.0, image.height - 20
    for name, colour in zip(names, palette, strict=True):
        label = fitted(name, 120, 14)
        if x + 24 + font(14).getlength(label) > image.width:
            break
        pen.ellipse((x, y - 5, x + 10, y + 5), fill=colour)
        pen.text((x + 16, y), label, fill=INK, font=font(14), anchor="lm")
        x += 16 + font(14).getlength(label) + 22


def _value_legend(image: Image, name: str, low: float, high: float) -> None:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    y = image.height - 26
    label = fitted(name, 150, 14)
    pen.text((40, y + 6), label, fill=INK, font=font(14), anchor="lm")
    left = 40 + font(14).getlength(label) + 18
    pen.text((left, y + 6), number(low), fill=MUTED, font=font(12), anchor="lm")
    left += font(12).getlength(number(low)) + 8
    bar = raster(diverging(torch.linspace(-1, 1, 140).expand(12, -1)))
    image.paste(bar, (int(left), y))
    pen.rectangle((int(left), y, int(left) + 139, y + 11), outline=PALE)
    pen.text((left + 148, y + 6), number(high), fill=MUTED, font=font(12), anchor="lm")

"""What every picture is made of: colours, letters, axes and tiles. Only Pillow and torch are needed.

Blue is positive and orange negative, as in TensorFlow Playground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 43, 51)
MUTED: Colour = (112, 119, 130)
FAINT: Colour = (228, 231, 235)
PALE: Colour = (240, 242, 244)
BLUE: Colour = (8, 119, 189)
ORANGE: Colour = (245, 147, 34)
RED: Colour = (205, 38, 38)
SERIES: tuple[Colour, ...] = (
    ORANGE, BLUE, (58, 158, 92), (196, 62, 74), (140, 100, 190),
    (128, 92, 70), (220, 120, 180), (110, 116, 124), (180, 176, 40), (40, 176, 190),
)  # fmt: skip


@lru_cache
def font(size: int) -> Any:
    """Pillow's built-in letters at ``size`` pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def blank(width: int, height: int) -> tuple[Image, ImageDraw]:
    """A white picture and the pen to draw on it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), WHITE)
    return image, ImageDraw.Draw(image)


def fitted(text: str, width: float, size: int) -> str:
    """``text``, cut with dots at its end when it is wider than ``width`` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "..") > width:
        text = text[:-1]
    return text + ".."


def diverging(values: Tensor) -> Tensor:
    """Colours of numbers in -1..1: orange, pale at zero, blue. Shape (...) -> uint8 (..., 3)."""
    x = values.clamp(-1, 1).unsqueeze(-1)
    negative, middle, positive = (torch.tensor(c, dtype=torch.float32) for c in (ORANGE, PALE, BLUE))
    return (middle + x.clamp(min=0) * (positive - middle) + (-x).clamp(min=0) * (negative - middle)).round().byte()


def raster(colours: Tensor) -> Image:
    """A picture of uint8 (H, W, 3)."""
    from PIL import Image

    return Image.fromarray(colours.contiguous().numpy())


def mixed(colour: Colour, share: float) -> Colour:
    """``share`` of ``colour`` on white."""
    r, g, b = (round(255 + share * (c - 255)) for c in colour)
    return r, g, b


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-6)
    last = math.floor(high / step + 1e-6)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A short way to write ``value``: 12k, 0.35, 3e-05."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Axes:
    """A rectangle of pixels with a range of numbers on each side; ``log`` scales the vertical one by its logarithm."""

    left: int
    top: int
    right: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False

    def x(self, value: float) -> float:
        """Pixel column of ``value``."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixel row of ``value``."""
        low, high = self.y_range
        if self.log:
            value, low, high = (math.log10(max(v, 1e-30)) for v in (value, low, high))
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def draw(self, pen: ImageDraw, size: int, grid: bool = True) -> None:
        """Tick labels on both sides, and a grid when asked for."""
        for value in ticks(*self.x_range):
            column = self.x(value)
            if grid:
                pen.line([(column, self.top), (column, self.bottom)], fill=FAINT, width=max(1, size // 12))
            pen.text((column, self.bottom + size // 2), number(value), fill=MUTED, font=font(size), anchor="ma")
        for value in self._rows():
            row = self.y(value)
            if grid:
                pen.line([(self.left, row), (self.right, row)], fill=FAINT, width=max(1, size // 12))
            pen.text((self.left - size // 2, row), number(value), fill=MUTED, font=font(size), anchor="rm")

    def _rows(self) -> list[float]:
        if not self.log:
            return ticks(*self.y_range)
        low, high = (math.log10(v) for v in self.y_range)
        return [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def tiles(pictures: list[Image], columns: int, gap: int, top: int) -> tuple[Image, ImageDraw]:
    """Pictures of one size side by side below a header of ``top`` pixels, and the pen to write there."""
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    image, pen = blank(columns * (width + gap) + gap, top + rows * (height + gap))
    for i, tile in enumerate(pictures):
        image.paste(tile, (gap + i % columns * (width + gap), top + i // columns * (height + gap)))
    return image, pen

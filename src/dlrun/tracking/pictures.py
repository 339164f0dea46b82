"""Pictures of a classifier: its predictions, its mistakes, its first layer.

Legend: N examples, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dlrun.tracking.canvas import (
    BLUE,
    INK,
    MUTED,
    RED,
    WHITE,
    blank,
    diverging,
    fitted,
    font,
    mixed,
    number,
    raster,
    tiles,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

MOST_FILTERS = 64


def predictions(inputs: Tensor, predicted: Sequence[str], true: Sequence[str]) -> Image:
    """The pictures of a batch, each with the predicted class and, below it, the true one; mistakes in red.

    Args:
        inputs: (N, C, H, W) as the network sees them; their range is stretched to black..white per channel.
        predicted: N names.
        true: N names.
    """
    right = [guess == truth for guess, truth in zip(predicted, true, strict=True)]
    title = f"{sum(right)} of {len(right)} right"
    return _captioned(inputs, predicted, true, right, title, "predicted class, below it the true one")


def predicted_values(inputs: Tensor, predicted: Sequence[float], true: Sequence[float]) -> Image:
    """The pictures of a batch (N, C, H, W), each with the predicted number and, below it, the true one."""
    names = [[number(value) for value in values] for values in (predicted, true)]
    right = [True] * len(predicted)
    return _captioned(inputs, names[0], names[1], right, "predictions", "predicted value, below it the true one")


def _captioned(
    inputs: Tensor, above: Sequence[str], below: Sequence[str], right: Sequence[bool], title: str, hint: str
) -> Image:
    """A sheet of pictures with two lines under each; the wrong ones have a red frame and red letters."""
    images = [_scaled(image, 72, 112) for image in _stretched(inputs.detach().float().cpu())]
    width, height = images[0].size
    cell = max(width, 72)
    panels = []
    for image, first, second, good in zip(images, above, below, right, strict=True):
        panel, pen = blank(cell, height + 36)
        left = (cell - width) // 2
        panel.paste(image, (left, 0))
        if not good:
            pen.rectangle((left, 0, left + width - 1, height - 1), outline=RED, width=3)
        ink = INK if good else RED
        pen.text((cell // 2, height + 4), fitted(first, cell, 14), fill=ink, font=font(14), anchor="ma")
        pen.text((cell // 2, height + 21), fitted(second, cell, 12), fill=MUTED, font=font(12), anchor="ma")
        panels.append(panel)
    sheet, pen = tiles(panels, columns=min(5, len(panels)), gap=12, top=38)
    pen.text((12, 10), title, fill=INK, font=font(16), anchor="la")
    start = 12 + font(16).getlength(title) + 16
    pen.text((start, 13), fitted(hint, sheet.width - start - 8, 13), fill=MUTED, font=font(13), anchor="la")
    return sheet


def confusion_matrix(counts: Tensor, names: Sequence[str]) -> Image:
    """How often each true class (row) is taken for each class (column).

    A cell's blue is its share of the row; the numbers are counts and are left out above 30 classes.

    Args:
        counts: (K, K) whole numbers.
        names: K class names.
    """
    classes = len(names)
    cell = 40 if classes <= 14 else 30 if classes <= 30 else max(3, 900 // classes)
    letters = min(14, max(9, cell // 2 - 5))
    labelled = cell >= 12
    longest = min(150, max(font(letters).getlength(name) for name in names)) if labelled else 0
    left, top = int(longest) + 44, 76
    plane = cell * classes
    turned = labelled and max(font(letters).getlength(name) for name in names) > cell - 4
    bottom = 30 + (int(longest) if turned else letters + 6)
    image, pen = blank(max(left + plane + 24, 300), top + plane + bottom)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for row, (numbers, parts) in enumerate(zip(counts.tolist(), shares.tolist(), strict=True)):
        for column, (count, share) in enumerate(zip(numbers, parts, strict=True)):
            x, y = left + column * cell, top + row * cell
            gap = 1 if cell >= 12 else 0
            fill = mixed(BLUE, 0.04 + 0.96 * share**0.7)
            pen.rectangle((x, y, x + cell - 1 - gap, y + cell - 1 - gap), fill=fill)
            if count and classes <= 30:
                ink = WHITE if share > 0.45 else INK
                pen.text((x + cell / 2, y + cell / 2), f"{count}", fill=ink, font=font(letters), anchor="mm")
    if labelled:
        for i, name in enumerate(names):
            centre = i * cell + cell / 2
            pen.text((left - 6, top + centre), fitted(name, 150, letters), fill=INK, font=font(letters), anchor="rm")
            below = (left + centre, top + plane + 6)
            (_write_upwards if turned else _write)(image, pen, below, fitted(name, 150, letters), letters)
    accuracy = counts.trace().item() / max(1, counts.sum().item())
    total = int(counts.sum().item())
    pen.text((14, 14), f"accuracy {accuracy:.4g}", fill=INK, font=font(17), anchor="la")
    pen.text((14, 40), f"{total} examples; rows true, columns predicted", fill=MUTED, font=font(13), anchor="la")
    return image


def filters(weight: Tensor) -> Image:
    """The filters of a first layer, at most 64: colour for three channels, else blue above and orange below zero.

    Args:
        weight: (N, C, H, W); with neither one nor three channels the mean over channels is shown.
    """
    w = weight[:MOST_FILTERS].detach().float().cpu()
    colour = w.shape[1] == 3
    w = w if colour else w.mean(1)
    scale = w.abs().flatten().quantile(0.995).clamp(min=1e-8) if w.numel() < 10_000_000 else w.abs().max()
    w = (w / scale).clamp(-1, 1)
    pixels = ((w.permute(0, 2, 3, 1) + 1) * 127.5).round().byte() if colour else diverging(w)
    images = [_scaled(raster(p), 56, 96) for p in pixels]
    columns = min(len(images), max(4, math.ceil(math.sqrt(len(images)))))
    sheet, pen = tiles(images, columns=columns, gap=6, top=36)
    shown = f"{len(images)} of {weight.shape[0]}" if len(weight) > len(images) else f"{len(images)}"
    note = f"{shown} filters of the first layer" + ("" if colour else f", ±{scale.item():.2g}")
    pen.text((6, 9), fitted(note, sheet.width - 12, 15), fill=INK, font=font(15), anchor="la")
    return sheet


def first_filters(model: nn.Module, shape: tuple[int, ...]) -> Tensor | None:
    """The first layer's weights as pictures (N, C, H, W), or None when they are none.

    They are for a convolution wider than one pixel and for a fully connected layer on pictures of ``shape`` (C, H, W).
    """
    weight = next((p for p in model.parameters() if p.ndim >= 2), None)
    if weight is None or len(shape) != 3:
        return None
    if weight.ndim == 4 and min(weight.shape[2:]) > 1:
        return weight.detach()
    if weight.ndim == 2 and weight.shape[1] == math.prod(shape):
        return weight.detach().reshape(-1, *shape)
    return None


def _stretched(inputs: Tensor) -> list[Image]:
    """Pictures of (N, C, H, W) whose lowest and highest value per channel become black and white."""
    x = inputs if inputs.shape[1] == 3 else inputs[:, :1].expand(-1, 3, -1, -1)
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    x = (x - low) / (high - low).clamp(min=1e-8)
    return [raster(image) for image in (torch.nan_to_num(x) * 255).round().byte().permute(0, 2, 3, 1)]


def _scaled(image: Image, least: int, most: int) -> Image:
    """Whole multiples of each pixel up to ``least`` pixels or more; smooth shrinking above ``most``."""
    from PIL.Image import Resampling

    longest = max(image.size)
    if longest > most:
        size = (max(1, image.width * most // longest), max(1, image.height * most // longest))
        return image.resize(size, Resampling.LANCZOS)
    factor = max(1, math.ceil(least / longest))
    return image.resize((image.width * factor, image.height * factor), Resampling.NEAREST)


def _write(image: Image, pen: ImageDraw, at: tuple[float, float], text: str, size: int) -> None:
    pen.text(at, text, fill=INK, font=font(size), anchor="ma")


def _write_upwards(image: Image, pen: ImageDraw, at: tuple[float, float], text: str, size: int) -> None:
    line, line_pen = blank(int(font(size).getlength(text)) + 2, size + 4)
    line_pen.text((line.width - 1, line.height // 2), text, fill=INK, font=font(size), anchor="rm")
    image.paste(line.rotate(90, expand=True), (int(at[0] - line.height / 2), int(at[1])))

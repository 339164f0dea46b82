"""What a generator shows: examples made of the same noise every time, so that one can watch them form.

Legend: N examples, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.tracking.boundary import extent
from dlrun.tracking.canvas import BLUE, INK, MUTED, ORANGE, Axes, blank, font, mixed, raster, tiles
from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.tracking.gallery import Draw, Gallery

NOISE_SEED = 0
IMAGES, POINTS = 64, 1000
COLUMNS = 8
LEAST, MOST = 56, 96  # pixels of an image's side on the sheet
SIDE, SCALE = 420, 2


def drawings(look: Gallery) -> dict[str, Draw]:
    """A sheet of images, or points on a plane with those of the data; tables have no picture."""
    if look.facts.kind == "image":
        return {"pictures/samples": lambda: sheet(sampled(look, IMAGES))}
    if look.facts.kind == "points":
        return {"pictures/samples": lambda: scatter(look.points, sampled(look, POINTS))}
    return {}


def sampled(look: Gallery, count: int) -> Tensor:
    """Generated examples (N, ...) of the same noise in every call, on the CPU."""
    with observing(look.model, look.device):
        torch.manual_seed(NOISE_SEED)
        examples: Tensor = look.task.sample(look.model, count)
        return examples.cpu()


def sheet(images: Tensor) -> Image:
    """Images (N, C, H, W) from -1 (black) to 1 side by side, eight in a row."""
    colours = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    longest = max(images.shape[2:])
    if longest > MOST:
        colours = F.interpolate(colours, scale_factor=MOST / longest, mode="area")
    elif longest < LEAST:
        times = math.ceil(LEAST / longest)
        colours = colours.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
    pixels = (((torch.nan_to_num(colours) + 1) / 2).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    whole, pen = tiles([raster(p) for p in pixels], columns=COLUMNS, gap=4, top=34)
    pen.text(
        (8, 8), f"{len(images)} generated images, of the same noise each time", fill=INK, font=font(15), anchor="la"
    )
    return whole


def scatter(real: Tensor, generated: Tensor) -> Image:
    """Generated points (N, 2) over those of the data; what lies outside their frame is counted in the title."""
    from PIL.Image import Resampling

    low, high = extent(real[:, :2])
    box = (44 * SCALE, 56 * SCALE, (44 + SIDE) * SCALE, (56 + SIDE) * SCALE)
    axes = Axes(*box, low, high)
    image, pen = blank((SIDE + 64) * SCALE, (SIDE + 92) * SCALE)
    axes.draw(pen, 12 * SCALE)
    inside = torch.tensor([low, high])  # (2, 2): per axis its ends
    kept = ((generated >= inside[:, 0]) & (generated <= inside[:, 1])).all(dim=1)
    stride = max(1, len(real) // POINTS)
    for points, colour, radius in ((real[::stride], mixed(ORANGE, 0.5), 2.2), (generated[kept], BLUE, 1.5)):
        for x, y in points.tolist():
            at, size = (axes.x(x), axes.y(y)), radius * SCALE
            pen.ellipse((at[0] - size, at[1] - size, at[0] + size, at[1] + size), fill=colour)
    pen.rectangle(box, outline=MUTED, width=SCALE)
    image = image.resize((image.width // SCALE, image.height // SCALE), Resampling.BOX)
    return _titled(image, len(generated), int((~kept).sum()))


def _titled(image: Image, count: int, outside: int) -> Image:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    beyond = f", {outside} of them outside this frame" if outside else ""
    pen.text((12, 10), f"{count:,} generated points{beyond}", fill=INK, font=font(15), anchor="la")
    x = 12
    for name, colour in (("data", mixed(ORANGE, 0.5)), ("generated", BLUE)):
        pen.ellipse((x, 36, x + 9, 45), fill=colour)
        pen.text((x + 14, 41), name, fill=MUTED, font=font(13), anchor="lm")
        x += 14 + int(font(13).getlength(name)) + 20
    return image

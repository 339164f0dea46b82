"""What super-resolution shows: a picture of the validation part four times, from what the network saw to the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlrun import metrics
from dlrun.models.bicubic import resize
from dlrun.tracking.canvas import INK, MUTED, font, raster, tiles
from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.tracking.gallery import Draw, Gallery

SIDE = 252  # pixels of a picture that are shown, from its middle
LEAST = 200  # pixels that a shown picture has at least; smaller ones are enlarged by whole multiples


def drawings(look: Gallery) -> dict[str, Draw]:
    """One sheet: low resolution, bicubic interpolation, the network, the truth."""
    return {"pictures/enlarged": lambda: enlarged(look)}


def enlarged(look: Gallery) -> Image:
    """The middle of the first picture of the sample, side by side; each with its signal-to-noise ratio."""
    scale = look.facts.scale
    low, high = (x[:1].float() for x in (look.inputs, look.targets))  # (1, C, h, w), (1, C, H, W)
    with observing(look.model, look.device):
        found = look.task.images(look.model, low.to(look.device)).float().to(high.device)
    bicubic = resize(low, *high.shape[-2:]).to(high.device)
    blocks = low.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3).to(high.device)
    shown = [(f"seen, {scale} times smaller", blocks), ("bicubic", bicubic), ("network", found), ("truth", high)]
    sheet, pen = tiles([_picture(picture, scale) for _, picture in shown], columns=4, gap=10, top=48)
    step = (sheet.width - 10) // 4
    for i, (name, picture) in enumerate(shown):
        pen.text((10 + i * step, 7), name, fill=INK, font=font(15), anchor="la")
        if 0 < i < 3:
            pen.text(
                (10 + i * step, 27), f"{_ratio(picture, high, scale):.2f} dB", fill=MUTED, font=font(13), anchor="la"
            )
    return sheet


def _ratio(picture: Tensor, high: Tensor, border: int) -> float:
    """As the task measures it, of the whole picture."""
    inside = (..., slice(border, -border), slice(border, -border))
    return metrics.psnr((255 * picture).round().clamp(0, 255)[inside], (255 * high).round()[inside], peak=255).item()


def _picture(picture: Tensor, scale: int) -> Image:
    """The middle of (1, C, H, W) as grey levels, cut at whole pixels of low resolution."""
    from PIL.Image import Resampling

    height, width = picture.shape[-2:]
    tall, wide = (min(side, SIDE // scale * scale) for side in (height, width))
    top, left = ((side - part) // 2 // scale * scale for side, part in ((height, tall), (width, wide)))
    grey = torch.nan_to_num(picture[0, :1, top : top + tall, left : left + wide]).clamp(0, 1).cpu()
    image = raster((grey * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0))
    factor = max(1, -(-LEAST // max(tall, wide)))
    return image.resize((wide * factor, tall * factor), Resampling.NEAREST)

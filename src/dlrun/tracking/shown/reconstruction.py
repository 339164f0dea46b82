"""What an autoencoder shows: images of the validation part with what it makes of them, and its first layer.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlrun.tracking.canvas import INK, MUTED, blank, fitted, font, number, raster, tiles
from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.tracking.gallery import Draw, Gallery

COLUMNS = 9
LEAST, MOST = 56, 128  # pixels of an image's longer side on the sheet
GAP = 3


def drawings(look: Gallery) -> dict[str, Draw]:
    """Pairs of images, and the first layer where it is pictures; nothing for data that are no images."""
    if look.facts.kind != "image":
        return {}
    return {"pictures/reconstructions": lambda: reconstructions(look), "pictures/filters": look.filters}


def reconstructions(look: Gallery) -> Image:
    """Each image above its reconstruction."""
    inputs = look.inputs.to(look.device)
    with observing(look.model, look.device):
        outputs = look.task.images(look.model, inputs)
    error = (outputs - inputs).square().flatten(1).sum(1).mean().item()
    return sheet([inputs, outputs], f"squared error {number(error)}", "above the image, below its reconstruction")


def sheet(rows: Sequence[Tensor], title: str, hint: str) -> Image:
    """One column of images for each example: the first of each row's images on top; all (N, C, H, W) in one range."""
    shown = grey_levels(rows)
    panels = []
    for images in zip(*shown, strict=True):
        pieces = [tile(image) for image in images]
        width, height = pieces[0].size
        panel, _ = blank(width, len(pieces) * (height + GAP) - GAP)
        for place, piece in enumerate(pieces):
            panel.paste(piece, (0, place * (height + GAP)))
        panels.append(panel)
    return headed(panels, min(COLUMNS, len(panels)), title, hint)


def headed(panels: list[Image], columns: int, title: str, hint: str, gap: int = 10) -> Image:
    """Pictures of one size below a title and, in small letters, a hint."""
    whole, pen = tiles(panels, columns=columns, gap=gap, top=38)
    pen.text((10, 10), fitted(title, whole.width - 20, 16), fill=INK, font=font(16), anchor="la")
    start = 10 + font(16).getlength(title) + 14
    pen.text((start, 13), fitted(hint, whole.width - start - 8, 13), fill=MUTED, font=font(13), anchor="la")
    return whole


def grey_levels(rows: Sequence[Tensor]) -> list[Tensor]:
    """Rows of images as uint8 (N, H, W, 3), all on the scale on which the first row's extremes are black and white."""
    low, high = (rows[0].amin((0, 2, 3), keepdim=True), rows[0].amax((0, 2, 3), keepdim=True))
    return [as_bytes((row - low) / (high - low).clamp_min(1e-8)) for row in rows]


def as_bytes(images: Tensor) -> Tensor:
    """Images (N, C, H, W) from 0 to 1, others cut off, as uint8 (N, H, W, 3); two channels or more than three: one."""
    values = torch.nan_to_num(images.detach().float().cpu()).clamp(0, 1)
    values = values if values.shape[1] == 3 else values[:, :1].expand(-1, 3, -1, -1)
    return (values * 255).round().byte().permute(0, 2, 3, 1)


def tile(pixels: Tensor) -> Image:
    """An image of uint8 (H, W, 3), small ones enlarged by whole factors, large ones shrunk."""
    from PIL.Image import Resampling

    image = raster(pixels)
    longest = max(image.size)
    if longest > MOST:
        size = (max(1, image.width * MOST // longest), max(1, image.height * MOST // longest))
        return image.resize(size, Resampling.LANCZOS)
    factor = -(-LEAST // longest)
    return image.resize((image.width * factor, image.height * factor), Resampling.NEAREST)

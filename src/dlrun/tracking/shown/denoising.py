"""What a denoising autoencoder shows: images of the validation part, corrupted and cleaned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dlrun.tracking.canvas import number
from dlrun.tracking.observing import observing
from dlrun.tracking.shown.reconstruction import sheet

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.tracking.gallery import Draw, Gallery


def drawings(look: Gallery) -> dict[str, Draw]:
    """Images, corrupted and cleaned, and the first layer; nothing for data that are no images."""
    if look.facts.kind != "image":
        return {}
    return {"pictures/cleaned": lambda: cleaned(look), "pictures/filters": look.filters}


def cleaned(look: Gallery) -> Image:
    """Each image, below it corrupted (the same way each time), and below that what the network makes of it."""
    inputs = look.inputs.to(look.device)
    with observing(look.model, look.device):
        torch.manual_seed(0)  # observing puts the random state back
        corrupted = look.task.corrupt(inputs)
        outputs = look.task.images(look.model, corrupted)
    before, after = ((images - inputs).square().flatten(1).sum(1).mean().item() for images in (corrupted, outputs))
    title = f"squared error {number(before)} before, {number(after)} after"
    return sheet([inputs, corrupted, outputs], title, "the image, corrupted, cleaned")

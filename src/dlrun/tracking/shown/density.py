"""What a Boltzmann machine shows: its filters, its fantasies, and what one step up and down makes of images.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dlrun.tasks.density import GIBBS_STEPS
from dlrun.tracking.canvas import number
from dlrun.tracking.observing import observing
from dlrun.tracking.shown.reconstruction import grey_levels, headed, sheet, tile

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.tracking.gallery import Draw, Gallery

SEED = 0
FANTASIES = 36


def drawings(look: Gallery) -> dict[str, Draw]:
    """Three sheets of images; nothing for data that are no images."""
    if look.facts.kind != "image":
        return {}
    return {
        "pictures/filters": look.filters,
        "pictures/fantasies": lambda: fantasies(look),
        "pictures/reconstructions": lambda: reconstructions(look),
    }


def fantasies(look: Gallery) -> Image:
    """Samples of the model, from chains that draw the same random numbers every time."""
    with observing(look.model, look.device):
        torch.manual_seed(SEED)
        images = look.task.sample(look.model, FANTASIES)
    hint = f"means of the visible units, {GIBBS_STEPS} Gibbs steps from the base rates"
    return headed([tile(image) for image in grey_levels([images])[0]], 9, f"{FANTASIES} fantasies", hint)


def reconstructions(look: Gallery) -> Image:
    """Each image above the means of the visible units, given the means of the hidden units, given the image."""
    inputs = look.inputs.to(look.device)
    with observing(look.model, look.device):
        view = look.model.view()  # type: ignore[operator]
        outputs = view.visible_mean(view.hidden_mean(inputs.flatten(1))).reshape(inputs.shape)
    error = (outputs - inputs).square().flatten(1).sum(1).mean().item()
    return sheet([inputs, outputs], f"squared error {number(error)}", "above the image, below its reconstruction")

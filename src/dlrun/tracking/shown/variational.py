"""What a variational autoencoder shows: reconstructions, samples, and a walk through a code of two dimensions.

Legend: N images, C channels, H height, W width, K dimensions of the code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlrun.tracking.observing import observing
from dlrun.tracking.shown.reconstruction import grey_levels, headed, reconstructions, tile

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.tracking.gallery import Draw, Gallery

SIDE = 8  # of the grid of samples
STEPS = 15  # of the walk, in each direction
EDGE = 0.05  # of the probability, that the walk leaves out at either end


def drawings(look: Gallery) -> dict[str, Draw]:
    """Pairs, samples, the walk where the code is a plane; nothing for data that are no images."""
    if look.facts.kind != "image":
        return {}
    found: dict[str, Draw] = {
        "pictures/reconstructions": lambda: reconstructions(look),
        "pictures/samples": lambda: samples(look),
        "pictures/filters": look.filters,
    }
    if look.model.code_features == 2:
        found["pictures/walk"] = lambda: walk(look)
    return found


def samples(look: Gallery) -> Image:
    """New images from the same 64 codes each time, drawn from the prior."""
    model: Any = look.model
    codes = torch.randn(SIDE * SIDE, model.code_features, generator=torch.Generator().manual_seed(0))
    return _decoded(look, codes, SIDE, "samples", "the same codes each time", gap=4)


def walk(look: Gallery) -> Image:
    """The plane of the code at equal steps of its probability, as in Kingma and Welling's appendix A."""
    places = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(EDGE, 1 - EDGE, STEPS))
    down, across = torch.meshgrid(places.flip(0), places, indexing="ij")
    codes = torch.stack([across.flatten(), down.flatten()], dim=1)  # (225, 2)
    title = f"the code from {places[0]:.1f} to {places[-1]:.1f}"
    return _decoded(look, codes, STEPS, title, "first dimension across, second upwards", gap=0)


def _decoded(look: Gallery, codes: Tensor, columns: int, title: str, hint: str, gap: int) -> Image:
    """A sheet of what codes (N, K) stand for, on the scale of the validation part's images."""
    model: Any = look.model
    with observing(model, look.device):
        images = look.task.likeness.values(model.decode(codes.to(look.device)))
    _, shown = grey_levels([look.inputs.to(look.device), images])
    return headed([tile(image) for image in shown], columns, title, hint, gap)

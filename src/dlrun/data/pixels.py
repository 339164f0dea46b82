"""The range of pixel values a network sees, which depends on what it is to do with them.

``standard``: mean 0 and deviation 1 per channel, for networks that only read images. ``unit``: 0 (black) to 1, for
networks that draw images with a sigmoid at the end. ``symmetric``: -1 to 1, for those that end in a tanh. ``binary``:
0 or 1, drawn once for each pixel with its grey value as the probability of a 1, as R. Salakhutdinov and I. Murray, "On
the quantitative analysis of deep belief networks", ICML 2008, section 5, made the binarized MNIST that likelihoods are
compared on. Differs from it in: the draw is this program's own, not the published file.

Legend: N examples, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.data import Examples
from dlrun.data.images import CHUNK, ImagePreprocess
from dlrun.errors import ConfigError, did_you_mean

NOTES = {
    "standard": (),
    "unit": ("Pixels are 0 to 1 (data.pixels=unit).",),
    "symmetric": ("Pixels are -1 to 1 (data.pixels=symmetric).",),
    "binary": ("Pixels are 0 or 1, drawn once with their grey value as the probability (data.pixels=binary).",),
}


def chosen_range(pixels: str, wanted: str) -> str:
    """The range to use: ``wanted`` by the task when ``pixels`` is ``auto``, else ``pixels``.

    Raises:
        ConfigError: ``pixels`` is neither ``auto`` nor a range.
    """
    name = wanted if pixels == "auto" else pixels
    if name not in NOTES:
        known = ("auto", *NOTES)
        raise ConfigError(f"data.pixels={pixels} is none of {', '.join(known)}{did_you_mean(pixels, known)}")
    return name


def preprocess_for(pixels: str, inputs: Tensor, scale: float = 255.0) -> ImagePreprocess:
    """The preprocessing that gives raw images (N, C, H, W) of the training part this range."""
    if pixels == "standard":
        return ImagePreprocess.fit(inputs, scale)
    channels, height, width = inputs.shape[1:]
    middle, spread = (0.5, 0.5) if pixels == "symmetric" else (0.0, 1.0)
    return ImagePreprocess(
        mean=[middle] * channels,
        std=[spread] * channels,
        channels=channels,
        size=(height, width),
        scale=scale,
        binary=pixels == "binary",
    )


def drawn(pixels: str, parts: list[Examples], seed: int, scale: float = 255.0) -> list[Examples]:
    """The parts as they are, or for ``binary`` with each pixel drawn as black (0) or white (``scale``), uint8.

    The numbers are a function of the seed and of the examples' places.
    """
    if pixels != "binary":
        return parts
    generator = torch.Generator().manual_seed(seed)
    return [Examples(_bernoulli(part.inputs, scale, generator), part.targets) for part in parts]


def _bernoulli(inputs: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    out = torch.empty_like(inputs)
    for grey, black_or_white in zip(inputs.split(CHUNK), out.split(CHUNK), strict=True):
        black_or_white.copy_(torch.bernoulli(grey / scale, generator=generator) * scale)
    return out

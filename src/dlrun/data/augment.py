"""Augmentation of image batches on the device they live on, after preprocessing.

Sources: padding by zeros and a random crop of the original size, and the horizontal flip, as in He et al. 2015
(arXiv:1512.03385, section 4.2); random erasing as in Zhong et al. 2017 (arXiv:1708.04896). The erased rectangle differs
from the paper in: 1. it is filled with 0, the training part's mean colour, not with noise; 2. a rectangle that does not
fit is clipped to the image, not drawn again.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dlrun.data.hashing import uniform
from dlrun.errors import ConfigError, did_you_mean

ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augment:
    """Random crop, flip and erasing of image batches; what is done to an example depends on its index, not its batch.

    Attributes:
        crop: pixels of zero padding on each side before a crop of the original size; 0 is off.
        flip: mirror left and right with probability one half.
        erase: probability of erasing a rectangle of 2 % to 33 % of the image.
    """

    crop: int = 0
    flip: bool = False
    erase: float = 0.0

    def __call__(self, inputs: Tensor, key: int | Tensor, indices: Tensor) -> Tensor:
        """Return the batch (B, C, H, W) float32 augmented.

        ``key`` stands for (seed, epoch), as ``hashing.mix`` gives it; ``indices`` (B,) int64 are the examples' numbers.
        """
        draws = uniform(key, indices, 8)  # (8, B): crop y, x; flip; erase or not, area, aspect, y, x
        if self.crop:
            inputs = _crop(inputs, self.crop, draws[0], draws[1])
        if self.flip:
            inputs = torch.where((draws[2] < 0.5).view(-1, 1, 1, 1), inputs.flip(3), inputs)
        if self.erase:
            inputs = _erase(inputs, draws[3] < self.erase, draws[4:])
        return inputs


def build_augment(node: Mapping[str, Any] | None) -> Augment | None:
    """Turn the ``data.augment`` node into an ``Augment``, or None when nothing is on.

    Raises:
        ConfigError: an unknown key, a negative padding or a probability outside [0, 1].
    """
    settings = dict(node or {})
    known = [field.name for field in fields(Augment)]
    for key in settings:
        if key not in known:
            raise ConfigError(f"data.augment has no key '{key}'{did_you_mean(str(key), known)}")
    crop, flip, erase = settings.get("crop", 0), settings.get("flip", False), settings.get("erase", 0.0)
    if isinstance(crop, bool) or not isinstance(crop, int) or crop < 0:
        raise ConfigError(f"data.augment.crop={crop} is no number of pixels: give 0 (off) or more, such as 4.")
    if not isinstance(flip, bool):
        raise ConfigError(f"data.augment.flip={flip} is neither true nor false.")
    if isinstance(erase, bool) or not isinstance(erase, int | float) or not 0 <= erase <= 1:
        raise ConfigError(
            f"data.augment.erase={erase} is no probability: give a number from 0 (off) to 1, such as 0.25."
        )
    augment = Augment(crop, flip, float(erase))
    return None if augment == Augment() else augment


def _crop(inputs: Tensor, pad: int, y: Tensor, x: Tensor) -> Tensor:
    """Pad (B, C, H, W) by zeros and cut one window of the original size per image."""
    height, width = inputs.shape[2:]
    padded = functional.pad(inputs, (pad, pad, pad, pad))
    top, left = (y * (2 * pad + 1)).long(), (x * (2 * pad + 1)).long()  # 0 .. 2 pad
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 pad + 1, 2 pad + 1, H, W), a view
    return windows[torch.arange(len(inputs), device=inputs.device), :, top, left]


def _erase(inputs: Tensor, chosen: Tensor, draws: Tensor) -> Tensor:
    """Set one rectangle of each chosen image of (B, C, H, W) to 0; draws (4, B): area, aspect, y, x."""
    height, width = inputs.shape[2:]
    area = (ERASED_AREA[0] + draws[0] * (ERASED_AREA[1] - ERASED_AREA[0])) * (height * width)
    low, high = math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])
    aspect = torch.exp(low + draws[1] * (high - low))
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (draws[2] * (height - tall + 1)).floor(), (draws[3] * (width - wide + 1)).floor()
    inside = _between(height, top, tall).unsqueeze(2) & _between(width, left, wide).unsqueeze(1)  # (B, H, W)
    return inputs.masked_fill((inside & chosen.view(-1, 1, 1)).unsqueeze(1), 0.0)


def _between(length: int, start: Tensor, extent: Tensor) -> Tensor:
    """Mark the positions start .. start + extent - 1 of each row: (B, length) bool."""
    positions = torch.arange(length, device=start.device)
    return (positions >= start.unsqueeze(1)) & (positions < (start + extent).unsqueeze(1))

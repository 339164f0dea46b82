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
        if self.crop or self.flip:
            inputs = _look_up(inputs, self.crop, draws[:2], draws[2] < 0.5 if self.flip else None)
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


def _look_up(inputs: Tensor, pad: int, draws: Tensor, mirrored: Tensor | None) -> Tensor:
    """Move each image of (B, C, H, W) by up to ``pad`` pixels, zeros coming in; mirror the ``mirrored`` (B,) ones.

    ``draws`` (2, B) say where the window of the original size lies in the padded image. Images are read as one run of
    numbers that begins some rows and columns early or late: copying runs is several times as fast as looking up rows,
    and what a run takes from beyond its image is what has to become zero.
    """
    size, height, width = len(inputs), *inputs.shape[2:]
    numbers, early = inputs[0].numel(), pad * (width + 1)
    copies = [inputs] if mirrored is None else [inputs, inputs.flip(3)]
    beyond = inputs.new_zeros(early)
    runs = torch.cat([beyond, *(copy.flatten() for copy in copies), beyond]).unfold(0, numbers, 1)  # a view
    starts = torch.arange(early, early + size * numbers, numbers, device=inputs.device)
    down, right = (draws * (2 * pad + 1)).long() - pad  # -pad .. pad
    if mirrored is not None:
        right = torch.where(mirrored, -right, right)
        starts = starts + mirrored * (size * numbers)
    found = runs.index_select(0, starts + down * width + right).view(inputs.shape)
    if pad:
        _bits(found).bitwise_and_(_box(inputs, (-down, height), (-right, width)).unsqueeze(1))
    return found


def _erase(inputs: Tensor, chosen: Tensor, draws: Tensor) -> Tensor:
    """Set one rectangle of each chosen image of (B, C, H, W) to 0; draws (4, B): area, aspect, y, x."""
    height, width = inputs.shape[2:]
    area = (ERASED_AREA[0] + draws[0] * (ERASED_AREA[1] - ERASED_AREA[0])) * (height * width)
    low, high = math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])
    aspect = torch.exp(low + draws[1] * (high - low))
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (draws[2] * (height - tall + 1)).floor(), (draws[3] * (width - wide + 1)).floor()
    erased = _box(inputs, (top, tall), (left, wide)) & -chosen.view(-1, 1, 1).int()
    return _bits(inputs).bitwise_and(~erased.unsqueeze(1)).view(torch.float32)


def _box(inputs: Tensor, vertical: tuple[Tensor, Tensor | int], horizontal: tuple[Tensor, Tensor | int]) -> Tensor:
    """A box of each image of (B, C, H, W), given as start (B,) and extent along each axis: (B, H, W) int32.

    All bits are set within it and none outside.
    """
    height, width = inputs.shape[2:]
    return _between(height, *vertical).unsqueeze(2) & _between(width, *horizontal).unsqueeze(1)


def _between(length: int, start: Tensor, extent: Tensor | int) -> Tensor:
    """Mark the positions start .. start + extent - 1 of each row: (B, length) int32, all bits set or none."""
    positions = torch.arange(length, device=start.device) - start.unsqueeze(1)
    return -((positions >= 0) & (positions < _column(extent))).int()


def _column(extent: Tensor | int) -> Tensor | int:
    return extent if isinstance(extent, int) else extent.unsqueeze(1)


def _bits(inputs: Tensor) -> Tensor:
    """The float32 numbers of images as int32, of which a mask leaves the number or zero.

    On the CPU it is six times as fast as a masked fill, and a NaN does not stay, as it would in a product with zero.
    """
    return inputs.view(torch.int32)

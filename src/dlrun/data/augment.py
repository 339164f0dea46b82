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
MARGIN = 128  # numbers of float32 in 512 bytes


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

    def draws(self, key: int | Tensor, indices: Tensor) -> Tensor:
        """The random numbers (8, B) in [0, 1) of the examples (B,) int64.

        ``key`` stands for (seed, epoch), as ``hashing.mix`` gives it.
        """
        return uniform(key, indices, 8)  # crop y, x; flip; erase or not, area, aspect, y, x

    def __call__(self, inputs: Tensor, draws: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the images (B, C, H, W) float32 augmented by their ``draws`` (8, B).

        With ``rows`` (B,) int64 ``inputs`` (N, C, H, W) holds more, of which these are wanted: looked up and cropped in
        one, where the memory around ``inputs`` allows (see ``with_margin``).
        """
        if self.crop:
            inputs = _crop(inputs, rows, self.crop, draws[0], draws[1])
        elif rows is not None:
            inputs = inputs.index_select(0, rows)
        if self.flip:
            inputs = _mirror(inputs, draws[2] < 0.5)
        if self.erase:
            inputs = _erase(inputs, draws[3] < self.erase, draws[4:])
        return inputs


@dataclass(frozen=True)
class EpochAugment:
    """The augmentation of one epoch; ``key`` stands for (seed, epoch)."""

    augment: Augment
    key: int

    def draws(self, places: Tensor) -> Tensor:
        """The random numbers (8, B) of these places; of many at once, for it takes thirty small operations."""
        return self.augment.draws(self.key, places)

    def __call__(self, inputs: Tensor, draws: Tensor, rows: Tensor | None = None) -> Tensor:
        """See ``Augment``."""
        return self.augment(inputs, draws, rows)


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


def check_fits(augment: Augment | None, shape: tuple[int, ...]) -> None:
    """Refuse a crop that may show nothing of an image of this shape (C, H, W).

    Raises:
        ConfigError: the padding is as large as the image.
    """
    if augment is not None and augment.crop >= min(shape[1:]):
        raise ConfigError(
            f"data.augment.crop={augment.crop}: the images are {shape[1]} x {shape[2]} pixels, and a window moved so "
            f"far may show nothing of them; an eighth of the side is usual, here {max(1, min(shape[1:]) // 8)}"
        )


def with_margin(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An empty tensor (N, ...) within memory that goes on for at least one more example at either end.

    It begins where a tensor of its own would, at a multiple of 512 bytes from the memory's start: matrix products give
    other last bits at other addresses.
    """
    numbers = math.prod(shape[1:])
    margin = -(-numbers // MARGIN) * MARGIN
    whole = like.new_empty(margin + shape[0] * numbers + margin)
    whole[:margin], whole[-margin:] = 0, 0
    return whole[margin:-margin].view(shape)


def _crop(inputs: Tensor, rows: Tensor | None, pad: int, y: Tensor, x: Tensor) -> Tensor:
    """Cut one window of the original size out of each chosen image of (N, C, H, W), padded by zeros.

    An image is read as one run of numbers that begins some rows and columns early or late: copying runs is several
    times as fast as looking up rows, and what a run takes from beyond its image is just what has to become zero.
    """
    height, width = inputs.shape[2:]
    runs, starts = _runs(inputs, rows, pad * (width + 1))
    down, right = ((draw * (2 * pad + 1)).long() - pad for draw in (y, x))  # -pad .. pad
    found = runs.index_select(0, starts + down * width + right).view(-1, *inputs.shape[1:])
    _bits(found).bitwise_and_(_box(inputs, (-down, height), (-right, width)).unsqueeze(1))
    return found


def _runs(inputs: Tensor, rows: Tensor | None, early: int) -> tuple[Tensor, Tensor]:
    """Every run of one image's length in memory (a view), and where the chosen images' own runs begin (B,).

    From there ``early`` numbers back and forth are memory too: that around ``inputs``, else that of a copy.
    """
    numbers, before = inputs[0].numel(), inputs.storage_offset()
    after = inputs.untyped_storage().nbytes() // inputs.element_size() - before - inputs.numel()
    if rows is not None and inputs.is_contiguous() and min(before, after) >= early:
        around = inputs.as_strided((early + inputs.numel() + early,), (1,), before - early)
        return around.unfold(0, numbers, 1), rows * numbers + early
    chosen = inputs if rows is None else inputs.index_select(0, rows)
    copied = functional.pad(chosen.flatten(), (early, early))
    return copied.unfold(0, numbers, 1), torch.arange(len(chosen), device=inputs.device) * numbers + early


def _mirror(inputs: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the ``chosen`` (B,) images of (B, C, H, W), left and right.

    By differences of bits: exact for every number, and in three quick passes, while torch.where takes as long as six.
    """
    before = _bits(inputs)
    changed = _bits(inputs.flip(3)).bitwise_xor_(before)
    return changed.bitwise_and_(-chosen.int().view(-1, 1, 1, 1)).bitwise_xor_(before).view(torch.float32)


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

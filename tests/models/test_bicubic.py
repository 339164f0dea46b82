"""Bicubic interpolation against torch's kernel, Keys' formula and the figure every paper reports."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dlrun.models.bicubic import cubic, resize, weights

CPU = torch.device("cpu")


def test_the_kernel_is_one_at_zero_and_zero_at_every_other_whole_number() -> None:
    x = torch.tensor([0.0, 1.0, -1.0, 2.0, -2.0, 3.0, 0.5, 1.5])
    expected = torch.tensor([1.0, 0, 0, 0, 0, 0, 0.5625, -0.0625])
    torch.testing.assert_close(cubic(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("old", "new"), [(9, 27), (27, 9), (10, 20), (12, 3), (7, 7), (5, 13), (1, 4), (3, 1)])
def test_every_new_pixel_is_a_mean_of_old_ones(old: int, new: int) -> None:
    matrix = weights(old, new, CPU)
    assert matrix.shape == (new, old)
    torch.testing.assert_close(matrix.sum(1), torch.ones(new, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.flip(0, 1))  # left and right are treated alike


def test_the_same_size_changes_nothing() -> None:
    picture = torch.rand(1, 1, 6, 8)
    torch.testing.assert_close(resize(picture, 6, 8), picture)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_inside_a_picture_it_is_torch_s_own_kernel_with_antialiasing(scale: int) -> None:
    """torch cuts the kernel at the border, so that two pixels of low resolution there may differ."""
    high = torch.rand(2, 1, 20 * scale, 24 * scale)
    low = resize(high, 20, 24)
    theirs = F.interpolate(high, (20, 24), mode="bicubic", antialias=True)
    torch.testing.assert_close(low[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=0, atol=2e-6)
    edge = 2 * scale
    large = resize(low, 20 * scale, 24 * scale)
    theirs = F.interpolate(low, large.shape[-2:], mode="bicubic", antialias=True)
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(large[inside], theirs[inside], rtol=0, atol=2e-6)


def test_beyond_the_border_the_picture_is_mirrored() -> None:
    line = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]).view(1, 1, 1, 8)
    mirrored = torch.cat([line.flip(3), line, line.flip(3)], dim=3)
    torch.testing.assert_close(resize(line, 1, 24), resize(mirrored, 1, 72)[..., 24:48])


def test_values_by_hand() -> None:
    """imresize([0 0 0 1 1 1], 2) and imresize(1:16, 0.5), by the formula with exact fractions."""
    step = torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64).view(1, 1, 1, 6)
    near = [0.0, 0.0, 0.0, -0.0234375, -0.0703125, 0.203125]
    expected = torch.tensor(near + [1 - x for x in reversed(near)], dtype=torch.float64)
    torch.testing.assert_close(resize(step, 1, 12).flatten(), expected)
    ramp = torch.arange(1, 17, dtype=torch.float64).view(1, 1, 1, 16)
    halved = resize(ramp, 1, 8).flatten()
    torch.testing.assert_close(halved[2:6], torch.tensor([5.5, 7.5, 9.5, 11.5], dtype=torch.float64))


def test_half_precision_around_it_changes_nothing() -> None:
    picture = torch.rand(1, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = resize(picture, 24, 24)
    assert torch.equal(inside, resize(picture, 24, 24))

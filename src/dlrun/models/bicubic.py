"""Bicubic interpolation as MATLAB's ``imresize`` does it, which is what papers on super-resolution compare with.

Each new pixel is a weighted mean of old ones; along one axis that is a matrix, so a picture X becomes R X C^T with one
matrix for the rows and one for the columns.
Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans. ASSP 29, 1981, equation
(4) with a = -1/2, and the description of ``imresize``: when a picture shrinks the kernel is stretched by the factor
(antialiasing), weights are normalised to sum 1, beyond the border the picture is mirrored, its edge pixels repeated.
torch's ``interpolate`` has a = -3/4 without antialiasing, and cuts the kernel at the border with it.

Shapes: B batch, C channels, h and w low resolution, H and W high resolution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cubic(x: Tensor) -> Tensor:
    """Keys' kernel: 1.5|x|^3 - 2.5|x|^2 + 1 up to 1, -0.5|x|^3 + 2.5|x|^2 - 4|x| + 2 up to 2, then 0."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, inner, torch.where(x <= 2, outer, torch.zeros_like(x)))


def weights(old: int, new: int, device: torch.device) -> Tensor:
    """The matrix (new, old) in float64 that takes ``old`` pixels of a line to ``new`` ones."""
    scale = new / old
    stretch = min(scale, 1.0)  # below 1: the kernel is 1/stretch times as wide
    # Pixel i covers i..i+1 of its line, so that its centre is i + 1/2 in either resolution.
    centres = (torch.arange(new, dtype=torch.float64, device=device) + 0.5) / scale - 0.5
    reach = 2 / stretch
    taps = torch.arange(math.ceil(2 * reach) + 2, device=device)
    near = (centres - reach).floor().long()[:, None] + taps  # (new, taps) positions, some beyond the border
    share = cubic(stretch * (centres[:, None] - near))
    folded = near.remainder(2 * old)
    mirrored = torch.where(folded < old, folded, 2 * old - 1 - folded)
    matrix = torch.zeros(new, old, dtype=torch.float64, device=device).scatter_add(1, mirrored, share)
    return matrix / matrix.sum(1, keepdim=True)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Pictures (B, C, h, w) of floats at another size: (B, C, height, width); values may leave their range a little.

    The products are in float64, which no reduced precision around a network touches.
    """
    rows, columns = weights(images.shape[-2], height, images.device), weights(images.shape[-1], width, images.device)
    return (rows @ images.double() @ columns.T).to(images.dtype)

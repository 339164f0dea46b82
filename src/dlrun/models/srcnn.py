"""SRCNN: a picture is enlarged by bicubic interpolation, then three convolutions sharpen it.

Source: C. Dong, C. C. Loy, K. He, X. Tang, "Learning a deep convolutional network for image super-resolution", ECCV
2014: patches (f1 x f1), non-linear mapping (f2 x f2), reconstruction (f3 x f3), here 9-1-5 with 64 and 32 maps.
Differs from it in: 1. the enlargement is the first step of the network, not of the data; 2. convolutions keep the size
by repeating edge pixels, where the paper lets the picture shrink; 3. the last convolution gives what is to be added to
the enlarged picture (J. Kim et al., "Accurate image super-resolution using very deep convolutional networks", 2016),
which needs thousands of steps instead of millions; ``residual=False`` gives the paper's direct form; 4. weights start
as torch's convolutions do, only those of a residual's last layer as the paper's, from N(0, 0.001^2).
Measured with ``experiment=srcnn_t91`` (4,000 steps of 32 patches), seed 0, CPU: 32.08 dB on Set5 at scale 3, where
bicubic interpolation has 30.39 and the paper, after 8 * 10^8 backpropagations, 32.39.

Shapes: B batch, C channels, h and w low resolution, H = scale * h and W = scale * w high resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.bicubic import resize
from dlrun.models.images import image_shape

START = 0.001  # deviation of the weights that begin near zero: an untrained network nearly is bicubic interpolation


class SRCNN(nn.Module):
    """Bicubic enlargement, then one convolution per kernel with an activation between them.

    Args:
        in_shape: (C, h, w) of a patch of low resolution; pictures of any size go through.
        scale: how many times larger the output is on each side.
        activation: makes each activation.
        maps: feature maps after each convolution but the last.
        kernels: sides of the filters; odd numbers, one more than there are ``maps``.
        residual: learn what bicubic interpolation misses instead of the whole picture.

    Raises:
        ConfigError: the data has no images, or the kernels and maps do not fit together.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        scale: int,
        activation: Callable[[], nn.Module],
        maps: Sequence[int] = (64, 32),
        kernels: Sequence[int] = (9, 1, 5),
        residual: bool = True,
    ) -> None:
        super().__init__()
        channels, *_ = image_shape(in_shape, "srcnn")
        self.scale, self.residual = scale, residual
        self.layers = convolutions(channels, maps, channels, kernels, activation)
        if residual:
            last = cast(nn.Conv2d, self.layers[-1])
            nn.init.normal_(last.weight, std=START)
            nn.init.zeros_(cast(Tensor, last.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W)."""
        large = resize(x, self.scale * x.shape[-2], self.scale * x.shape[-1])
        found: Tensor = self.layers(large)
        return large + found if self.residual else found


def convolutions(
    channels: int, maps: Sequence[int], last: int, kernels: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Convolutions that keep the size, with activations between them: (B, channels, H, W) -> (B, last, H, W).

    Raises:
        ConfigError: a kernel is even, a layer has no maps, or there is not one kernel more than there are ``maps``.
    """
    if len(kernels) != len(maps) + 1 or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise ConfigError(
            f"model.kernels={list(kernels)} must be odd numbers, one more than model.maps={list(maps)} has; "
            "use for example model.kernels=[9,1,5] model.maps=[64,32]"
        )
    if any(number < 1 for number in maps):
        raise ConfigError(f"model.maps={list(maps)} has a layer without maps; use for example [64,32]")
    sizes = [channels, *maps, last]
    layers: list[nn.Module] = []
    for before, after, kernel in zip(sizes, sizes[1:], kernels, strict=False):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2, padding_mode="replicate"), activation()]
    return nn.Sequential(*layers[:-1])

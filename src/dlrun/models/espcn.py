"""ESPCN: convolutions at low resolution, whose last maps are woven into one large picture (sub-pixel convolution).

Source: W. Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel convolutional
neural network", CVPR 2016, equations (1) to (4): kernels 5-3-3, 64 and 32 maps, tanh (here ``activation=tanh``).
Differs from it in: 1. any activation; 2. weights start as torch's convolutions do, uniform in +-1/sqrt(fan-in);
3. edge pixels are repeated beyond the border.

Shapes: B batch, C channels, h and w low resolution, H = r * h and W = r * w high resolution, r the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dlrun.models.images import image_shape
from dlrun.models.srcnn import convolutions


class ESPCN(nn.Module):
    """Convolutions with an activation between them; the last gives r^2 values for each pixel of low resolution.

    Args:
        in_shape: (C, h, w) of a patch of low resolution; pictures of any size go through.
        scale: r, how many times larger the output is on each side.
        activation: makes each activation.
        maps: feature maps after each convolution but the last.
        kernels: sides of the filters; odd numbers, one more than there are ``maps``.

    Raises:
        ConfigError: the data has no images, or the kernels and maps do not fit together.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        scale: int,
        activation: Callable[[], nn.Module],
        maps: Sequence[int] = (64, 32),
        kernels: Sequence[int] = (5, 3, 3),
    ) -> None:
        super().__init__()
        channels, *_ = image_shape(in_shape, "espcn")
        self.layers = convolutions(channels, maps, channels * scale**2, kernels, activation)
        self.weave = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W)."""
        large: Tensor = self.weave(self.layers(x))  # (B, C * r^2, h, w) -> (B, C, H, W)
        return large

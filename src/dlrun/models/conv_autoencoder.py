"""The convolutional autoencoder: images squeezed by strided convolutions, drawn again by resizing and convolving.

Encoder: per stage a 3x3 convolution of stride 2 and the activation; then a linear code. Decoder: a linear layer and
the activation; then per stage, upwards, the nearest-neighbour enlargement to exactly the size the encoder had there, a
3x3 convolution and the activation, none after the last.
Source: J. Masci et al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction", ICANN 2011; the
enlargement from A. Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016.
Differs from them in: 1. strides where Masci has max pooling; 2. trained whole and not stage by stage; 3. a fully
connected code at the bottom, where Masci keeps feature maps; 4. the weights start as in ``dlrun.models.autoencoder``.

Shapes: B batch, C channels, H height, W width, S channels of a stage, K units of the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.autoencoder import check_widths, start
from dlrun.models.images import image_shape


class ConvAutoencoder(nn.Module):
    """Strided convolutions down to a code, enlargement and convolutions up to the image's own shape.

    Args:
        in_shape: (C, H, W) of one image, of any size.
        activation: makes the activation of a stage.
        channels: of each stage of the encoder; every stage halves height and width, rounded up.
        code: units of the code.

    Raises:
        ConfigError: the examples are no images, a stage has no channels, or there is no stage.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        activation: Callable[[], nn.Module],
        channels: Sequence[int] = (32, 64),
        code: int = 32,
    ) -> None:
        super().__init__()
        shape = image_shape(in_shape, "conv_autoencoder")
        check_widths((), code)
        if not channels or any(count < 1 for count in channels):
            raise ConfigError(f"model.channels={list(channels)} needs stages of at least one channel, such as [32,64]")
        self.code_features = code
        stages = [shape[0], *channels]
        sizes = [shape[1:]]
        for _ in channels:
            height, width = sizes[-1]
            sizes.append((-(-height // 2), -(-width // 2)))
        deepest = (stages[-1], *sizes[-1])
        down = [
            nn.Sequential(nn.Conv2d(below, above, 3, stride=2, padding=1), activation())
            for below, above in pairwise(stages)
        ]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(deepest), code))
        up: list[nn.Module] = []
        for below, above, size in list(zip(stages[:-1], stages[1:], sizes[:-1], strict=True))[::-1]:
            up += [nn.Upsample(size), nn.Conv2d(above, below, 3, padding=1), activation()]
        self.decoder = nn.Sequential(
            nn.Linear(code, math.prod(deepest)), activation(), nn.Unflatten(1, deepest), *up[:-1]
        )
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction: (B, C, H, W) -> (B, C, H, W)."""
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """The code: (B, C, H, W) -> (B, S, H / 2^stages, W / 2^stages) -> (B, K)."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """What a code stands for: (B, K) -> (B, C, H, W)."""
        image: Tensor = self.decoder(code)
        return image

"""The vision transformer: a picture is a sequence of square patches.

x_0 = [class token; E patch_1; ...; E patch_N] + P; then the transformer encoder; scores from the class token.
Source: A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv 2010.11929), equations (1) to (4).
Differs from it in: 1. sizes for small pictures that train from nothing; 2. any activation (its own is the GELU); 3. the
mean over the patches instead of the class token on request (X. Zhai et al., "Scaling Vision Transformers", 2022);
4. linear layers start as ``nn.Linear`` does.
Measured with the defaults on digits (8x8, patches of 2): see ``configs/experiment/vit_digits.yaml``.

Shapes: B batch, C channels, H height, Q width of a picture, S side of a patch, N = (H/S)(Q/S) patches, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.images import image_shape
from dlrun.models.transformer_encoder import Encoder

FEWEST = 4  # patches on the shorter side of a picture, when their size is chosen
MOST_TOKENS = 1024  # patches that auto goes up to: every one attends to every other


class VisionTransformer(nn.Module):
    """Patches, a linear layer, the transformer encoder and a linear output.

    Args:
        in_shape: (C, H, Q) of one picture.
        out_features: number of output units.
        activation: makes the activation of each block's perceptron.
        patch: S, pixels of a patch's side, or ``auto``: the largest that leaves 4 patches on either side.
        layers: number of blocks.
        heads: attention heads of a block.
        width: W, values of each patch.
        dropout: share switched off at random in training.
        pooling: ``class``, a learned step in front gives the answer, or ``mean`` over the patches.

    Raises:
        ConfigError: the data has no pictures, the patches do not tile them, or a number is out of its range.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        activation: Callable[[], nn.Module],
        patch: int | str = "auto",
        layers: int = 4,
        heads: int = 4,
        width: int = 64,
        dropout: float = 0.0,
        pooling: str = "class",
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape(in_shape, "vit")
        self.patch = side = patch_side(height, breadth, patch)
        steps = (height // side) * (breadth // side)
        self.enter = nn.Linear(channels * side * side, width)
        self.encoder = Encoder(steps, activation, layers, heads, width, dropout, "learned", pooling)
        self.output = nn.Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, Q) -> (B, out_features)."""
        out: Tensor = self.output(self.encoder(self.enter(patches(x, self.patch))))
        return out


def patches(x: Tensor, side: int) -> Tensor:
    """Pictures (B, C, H, Q) as their patches, row by row: (B, N, C*S*S)."""
    batch, channels, height, breadth = x.shape
    grid = x.reshape(batch, channels, height // side, side, breadth // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * side * side)


def patch_side(height: int, breadth: int, patch: int | str) -> int:
    """The side of a patch in pixels, which divides both sides of the picture.

    Raises:
        ConfigError: it does not; names those that do.
    """
    common = math.gcd(height, breadth)
    fitting = [side for side in range(1, common + 1) if common % side == 0]
    if patch == "auto":
        side = max((side for side in fitting if min(height, breadth) >= FEWEST * side), default=1)
        if height * breadth // side**2 > MOST_TOKENS:
            raise ConfigError(
                f"model=vit would cut a picture of {height}x{breadth} into {height * breadth // side**2:,} patches of "
                f"{side}x{side}, the largest that divide it: use square pictures (data.size=64), or set model.patch"
            )
        return side
    if patch not in fitting:
        raise ConfigError(
            f"model.patch={patch} must divide a picture of {height}x{breadth}: use one of {fitting}, or auto"
        )
    return int(patch)

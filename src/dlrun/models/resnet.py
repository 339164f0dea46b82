"""Deep residual networks: each block learns what to add to its input, y = f(F(x) + x).

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385).
``CifarResNet`` is section 4.2: depth 6n+2 (20, 32, 44, 56, 110), three stages of 16, 32 and 64 maps, shortcuts of
option A (stride 2 and zeros for the new maps, no parameters); more maps in the first stage make it a wide one
(S. Zagoruyko, N. Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146). ``ImageNetResNet`` is table 1 for
depth 18, 34 (basic blocks) and 50 (bottlenecks), shortcuts of option B (a 1x1 convolution where the shape changes).
Weights start as in He et al. 2015 (arXiv 1502.01852): normal with variance 2 / fan-out.

Differs from the papers in:
1. any activation, where they have ReLU; 2. the stride of a bottleneck is in its 3x3 convolution, as torchvision has it
("v1.5"), where the paper has it in the first 1x1; 3. the linear output starts as torch's does; 4. any image size and
number of channels.

Shapes: B batch, C channels, H height, W width, N output units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError
from dlrun.models.images import image_shape

Activation = Callable[[], nn.Module]
IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
CIFAR_WIDTH = 16


def resnet(
    in_shape: tuple[int, ...], out_features: int, activation: Activation, depth: int = 20, width: int = CIFAR_WIDTH
) -> CifarResNet | ImageNetResNet:
    """The residual network of this depth: 18, 34 and 50 are the ImageNet ones, 6n+2 those for small images.

    Raises:
        ConfigError: the data has no images, or there is no network of this depth or width.
    """
    if width < 1:
        raise ConfigError(f"model.width={width} is a stage without maps; use for example model.width=16")
    if depth in IMAGENET_BLOCKS:
        if width != CIFAR_WIDTH:
            raise ConfigError(
                f"model.width={width} is for the networks of small images, and model.depth={depth} is for large ones; "
                "use model.depth=20, or leave model.width out"
            )
        return ImageNetResNet(in_shape, out_features, activation, depth)
    if depth >= 8 and (depth - 2) % 6 == 0:
        return CifarResNet(in_shape, out_features, activation, depth, width)
    known = (20, 32, 44, 56, 110, *IMAGENET_BLOCKS)
    close = min(known, key=lambda d: abs(d - depth))
    raise ConfigError(
        f"model.depth={depth} is no residual network; use 20, 32, 44, 56 or 110 for small images or 18, 34 or 50 for "
        f"large ones, for example model.depth={close}"
    )


class CifarResNet(nn.Module):
    """6n+2 layers for small images: a 3x3 convolution, three stages of n blocks, the mean over all positions, linear.

    Args:
        in_shape: (C, H, W) of one image.
        out_features: number of output units.
        activation: makes each activation.
        depth: 6n+2.
        width: maps of the first stage; the second has twice and the third four times as many.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        activation: Activation,
        depth: int = 20,
        width: int = CIFAR_WIDTH,
    ) -> None:
        super().__init__()
        channels, _, _ = image_shape(in_shape, "resnet")
        self.stem = nn.Sequential(conv(channels, width, 3), nn.BatchNorm2d(width), activation())
        blocks: list[nn.Module] = []
        maps = width
        for number, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for index in range((depth - 2) // 6):
                first = stride if index == 0 else 1
                shortcut = ZeroPadShortcut(number - maps, first) if number != maps else nn.Identity()
                blocks.append(ResidualBlock(basic(maps, number, first, activation), shortcut, activation()))
                maps = number
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(maps, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N)."""
        maps = self.blocks(self.stem(x))  # (B, 4 width, H/4, W/4)
        out: Tensor = self.output(self.flatten(self.pool(maps)))
        return out


class ImageNetResNet(nn.Module):
    """18, 34 or 50 layers for large images: a 7x7 convolution and pooling by 4, four stages of blocks, mean, linear.

    Args:
        in_shape: (C, H, W) of one image.
        out_features: number of output units.
        activation: makes each activation.
        depth: 18, 34 or 50.
    """

    def __init__(self, in_shape: tuple[int, ...], out_features: int, activation: Activation, depth: int = 18) -> None:
        super().__init__()
        channels, _, _ = image_shape(in_shape, "resnet")
        make, expansion = (bottleneck, 4) if depth >= 50 else (basic, 1)
        self.stem = nn.Sequential(
            conv(channels, 64, 7, 2), nn.BatchNorm2d(64), activation(), nn.MaxPool2d(3, stride=2, padding=1)
        )
        blocks: list[nn.Module] = []
        maps = 64
        for stage, number in enumerate(IMAGENET_BLOCKS[depth]):
            width = 64 * 2**stage
            for index in range(number):
                stride = 2 if stage > 0 and index == 0 else 1
                out = width * expansion
                shortcut = projection(maps, out, stride) if stride > 1 or maps != out else nn.Identity()
                blocks.append(ResidualBlock(make(maps, width, stride, activation), shortcut, activation()))
                maps = out
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(maps, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N)."""
        maps = self.blocks(self.stem(x))  # (B, 512 or 2048, H/32, W/32)
        out: Tensor = self.output(self.flatten(self.pool(maps)))
        return out


class ResidualBlock(nn.Module):
    """y = f(F(x) + shortcut(x)), equation (1) and (2) of the paper."""

    def __init__(self, residual: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        out: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return out


class ZeroPadShortcut(nn.Module):
    """Option A: every ``stride``-th position, and ``extra`` maps of zeros after the others; no parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + extra, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def conv(maps: int, number: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias (batch normalisation follows and has one), with He's weights."""
    layer = nn.Conv2d(maps, number, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def basic(maps: int, width: int, stride: int, activation: Activation) -> nn.Sequential:
    """F(x) of two 3x3 convolutions (figure 5, left)."""
    return nn.Sequential(
        conv(maps, width, 3, stride), nn.BatchNorm2d(width), activation(), conv(width, width, 3), nn.BatchNorm2d(width)
    )


def bottleneck(maps: int, width: int, stride: int, activation: Activation) -> nn.Sequential:
    """F(x) of 1x1, 3x3 and 1x1 convolutions, the last with four times the maps (figure 5, right)."""
    reduce = (conv(maps, width, 1), nn.BatchNorm2d(width), activation())
    look = (conv(width, width, 3, stride), nn.BatchNorm2d(width), activation())
    restore = (conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width))
    return nn.Sequential(*reduce, *look, *restore)


def projection(maps: int, number: int, stride: int) -> nn.Sequential:
    """Option B: a 1x1 convolution that gives the shortcut the block's shape."""
    return nn.Sequential(conv(maps, number, 1, stride), nn.BatchNorm2d(number))

"""A convolutional network: convolution, activation, pooling, repeated; then fully connected layers.

Source: the layer order of K. Fukushima (1980) and Y. LeCun et al. (1989) in its present form (Krizhevsky et al. 2012):
max pooling, same-size convolutions. Differs in: 1. any stack of channels, sized from the data; 2. optional batch
normalisation and dropout.
Measured with the defaults on Fashion-MNIST, 54,000 training images: test accuracy 0.905 after 3 epochs of Adam at 1e-3,
batch 64, ReLU, seed 0, CPU (channels 16, 32 and hidden 64: 0.895 in about half the time).

Shapes: B batch, C channels, H height, W width, F = C*H*W after the last stage, N output units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.images import image_shape
from dlrun.models.mlp import hidden_layers


class CNN(nn.Module):
    """A stack of convolution-activation-pool stages, then fully connected layers.

    Args:
        in_shape: (C, H, W) of one image.
        out_features: number of output units.
        activation: makes each activation.
        channels: feature maps of each stage.
        kernel: side of the square filters; an odd number keeps the image size.
        pool: side of the max-pooling windows after each stage; 1 pools nothing.
        hidden: units of the fully connected layers before the output.
        batch_norm: normalise each map over the batch, before the activation.
        dropout: share of fully connected hidden units switched off at random in training.

    Raises:
        ConfigError: the data has no images, they vanish under the pooling, or a number is out of its range.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        activation: Callable[[], nn.Module],
        channels: Sequence[int] = (32, 64),
        kernel: int = 3,
        pool: int = 2,
        hidden: Sequence[int] = (128,),
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        maps, height, width = image_shape(in_shape, "cnn")
        if kernel % 2 == 0 or kernel < 1:
            raise ConfigError(f"model.kernel={kernel} must be odd so that filters have a centre; use 3 or 5")
        if pool < 1 or any(number < 1 for number in channels):
            raise ConfigError(
                f"model.channels={list(channels)} and model.pool={pool} must be positive; use for example [32,64] and 2"
            )
        stages: list[nn.Module] = []
        for number in channels:
            stages += stage(maps, number, activation, kernel, pool, batch_norm)
            maps, height, width = number, height // pool, width // pool
        if height < 1 or width < 1:
            raise ConfigError(
                f"model.channels={list(channels)} pools a {in_shape[1]}x{in_shape[2]} image away; "
                "use fewer stages or model.pool=1"
            )
        features = maps * height * width
        self.features = nn.Sequential(*stages)
        self.flatten = nn.Flatten()
        self.hidden = hidden_layers(features, hidden, activation, dropout, batch_norm)
        self.output = nn.Linear((features, *hidden)[-1], out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N)."""
        maps = self.features(x)  # (B, C', H', W')
        out: Tensor = self.output(self.hidden(self.flatten(maps)))  # (B, F) -> (B, N)
        return out


def stage(
    maps: int, number: int, activation: Callable[[], nn.Module], kernel: int, pool: int, batch_norm: bool
) -> list[nn.Module]:
    """The layers of one stage: (B, maps, H, W) -> (B, number, H // pool, W // pool)."""
    layers: list[nn.Module] = [nn.Conv2d(maps, number, kernel, padding=kernel // 2)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(number))
    layers.append(activation())
    if pool > 1:
        layers.append(nn.MaxPool2d(pool))
    return layers

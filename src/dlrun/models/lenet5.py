"""LeNet-5, the convolutional network that read cheques.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11), 1998, section II.B and table I. As in the paper: images padded to 32x32, subsampling
with one trainable coefficient and one bias per map, the partial connections of C3, an activation after every layer up
to F6. On 28x28 grey images the layers have the paper's numbers of trainable parameters:
C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164.

Differs from the paper in:
1. the output is linear, 84 weights and a bias per class, scored by the configured loss, where the paper has fixed
   radial basis functions;
2. the activation is the ``activation`` group's (``activation=tanh`` comes nearest), where the paper has
   1.7159 tanh(2/3 a);
3. weights start as torch's do, uniform in +-1/sqrt(fan-in), where the paper has +-2.4/fan-in; the subsampling starts
   as the plain mean;
4. any number of channels, and images of 28x28 and larger: C5 then gives more than one position, all read by F6;
5. no distortions of the training images and no second-order learning rates unless configured.

Measured on MNIST, 54,000 training images, ReLU, Adam at 1e-3, batch 64, 10 epochs on the CPU: test accuracy of the
epoch best on 6,000 held-out images 0.9903, 0.9891 and 0.9891 (seeds 0, 1, 2).

Shapes: B batch, C channels, H height, W width, N output units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError
from dlrun.models.images import image_shape

# Table I: the maps of S2 that each of the 16 maps of C3 looks at.
C3_TABLE: tuple[tuple[int, ...], ...] = (
    *((i, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)
SMALLEST = 28
SIDE = 32


class LeNet5(nn.Module):
    """C1 conv, S2 subsample, C3 partially connected conv, S4 subsample, C5 conv, F6 fully connected, output.

    Args:
        in_shape: (C, H, W) of one image, at least 28x28; smaller sides than 32 are padded with zeros to 32.
        out_features: number of output units.
        activation: makes the squashing function after each layer.

    Raises:
        ConfigError: the data has no images, or they are smaller than 28x28.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(self, in_shape: tuple[int, ...], out_features: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        channels, height, width = image_shape(in_shape, "lenet5")
        if min(height, width) < SMALLEST:
            raise ConfigError(
                f"model=lenet5 needs images of at least {SMALLEST}x{SMALLEST} but these are {height}x{width}; "
                "use model=cnn"
            )
        self.pad = nn.ZeroPad2d(_padding(height, width))
        self.features = nn.Sequential()
        self.features.add_module("c1", nn.Conv2d(channels, 6, 5))
        self.features.add_module("c1_activation", activation())
        self.features.add_module("s2", Subsample(6))
        self.features.add_module("s2_activation", activation())
        self.features.add_module("c3", PartialConv2d(6, C3_TABLE, 5))
        self.features.add_module("c3_activation", activation())
        self.features.add_module("s4", Subsample(16))
        self.features.add_module("s4_activation", activation())
        self.features.add_module("c5", nn.Conv2d(16, 120, 5))
        self.features.add_module("c5_activation", activation())
        positions = _c5_side(max(height, SIDE)) * _c5_side(max(width, SIDE))
        self.flatten = nn.Flatten()
        self.f6 = nn.Linear(120 * positions, 84)
        self.f6_activation = activation()
        self.output = nn.Linear(84, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N)."""
        maps = self.features(self.pad(x))  # (B, 120, 1, 1) for 32x32
        features = self.f6_activation(self.f6(self.flatten(maps)))  # (B, 84)
        out: Tensor = self.output(features)
        return out


class Subsample(nn.Module):
    """The paper's pooling: coefficient times the mean of each 2x2 window, plus a bias; both trained, one pair per map.

    (B, maps, H, W) -> (B, maps, H // 2, W // 2). The paper multiplies the window's sum; the mean is the sum over 4.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) -> (B, maps, H // 2, W // 2)."""
        mean = F.avg_pool2d(x, 2)
        return mean * self.coefficient[:, None, None] + self.bias[:, None, None]


class PartialConv2d(nn.Module):
    """A convolution whose output map ``o`` sees only the input maps ``table[o]``; other weights do not exist.

    Args:
        in_channels: number of input maps.
        table: for each output map the input maps it is connected to.
        kernel: side of the filters.
    """

    connected: Tensor

    def __init__(self, in_channels: int, table: tuple[tuple[int, ...], ...], kernel: int) -> None:
        super().__init__()
        self.shape = (len(table), in_channels, kernel, kernel)
        rows = [o * in_channels + i for o, inputs in enumerate(table) for i in inputs]
        self.register_buffer("connected", torch.tensor(rows), persistent=False)
        bound = torch.tensor([(len(inputs) * kernel * kernel) ** -0.5 for inputs in table])
        each = torch.repeat_interleave(bound, torch.tensor([len(t) for t in table]), output_size=len(rows))
        self.weight = nn.Parameter((2 * torch.rand(len(rows), kernel, kernel) - 1) * each[:, None, None])
        self.bias = nn.Parameter((2 * torch.rand(len(table)) - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, len(table), H - kernel + 1, W - kernel + 1)."""
        outputs, inputs, height, width = self.shape
        dense = self.weight.new_zeros(outputs * inputs, height, width)
        dense = dense.index_copy(0, self.connected, self.weight)
        return F.conv2d(x, dense.view(self.shape), self.bias)


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Zeros on the left, right, top and bottom that make each side at least 32."""
    rows, columns = max(0, SIDE - height), max(0, SIDE - width)
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def _c5_side(side: int) -> int:
    """Positions along one side after C1, S2, C3, S4 and C5."""
    return ((side - 4) // 2 - 4) // 2 - 4

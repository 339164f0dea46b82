"""A generative adversarial network of strided convolutions, for images.

G: z -> a small stack of maps -> transposed convolutions that double the side, with batch normalisation and rectifiers,
to an image from -1 to 1 (tanh). D: convolutions that halve the side, with leaky rectifiers (0.2), to one score.
Source: A. Radford, L. Metz, S. Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", ICLR 2016; weights normal(0, 0.02) as there. Differs from it in: 1. any side that is a multiple
of 4: it is halved while it is even and above 4, so 28 ends at 7, 32 and 64 at 4; 2. filters of 4x4, which divide by the
stride and leave no chequerboard (Odena et al. 2016), where it has 5x5; 3. ``channels`` narrower than its 128; 4. no
batch normalisation in D unless ``batch_norm`` asks for it: it ties the examples of a batch together, which the gradient
penalty cannot have (Gulrajani et al. 2017, section 4), and D learns without it at these sizes; 5. normal noise for its
uniform.

Shapes: B batch, Z latent values, C channels, H height, W width, h and w the smallest height and width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.gan import SLOPE, checked_latent
from dlrun.models.images import image_shape

SMALLEST = 4
DEVIATION = 0.02


class DCGAN(nn.Module):
    """Convolutional generator and discriminator.

    Args:
        in_shape: (C, H, W), pixels from -1 to 1; H and W are multiples of 4, at least 8.
        latent: number of noise values that an image is made of.
        channels: maps of the stage nearest to the image; each smaller stage has twice as many.
        batch_norm: normalise D's maps over the batch too, all but the first stage's, as the paper does.

    Raises:
        ConfigError: the data has no such images, or a number is out of its range.
    """

    def __init__(
        self, in_shape: tuple[int, ...], latent: int = 64, channels: int = 32, batch_norm: bool = False
    ) -> None:
        super().__init__()
        maps, height, width = image_shape(in_shape, "dcgan")
        if height % 4 or width % 4 or min(height, width) < 2 * SMALLEST:
            raise ConfigError(
                f"model=dcgan needs images whose sides are multiples of 4 and at least 8, not {height}x{width}; "
                "use model=gan, or data.size=[32,32] for a folder of images"
            )
        if channels < 1:
            raise ConfigError(f"model.channels={channels} must be at least 1; use for example 32")
        self.latent = checked_latent(latent)
        stages = _halvings(height, width)
        widths = [channels * 2**stage for stage in range(stages)]  # from the image inwards
        size = (height // 2**stages, width // 2**stages)
        self.generator = _generator(latent, widths[::-1], size, maps)
        self.discriminator = _discriminator(maps, widths, size, batch_norm)
        self.apply(_initialise)

    def noise(self, count: int) -> Tensor:
        """Normal noise (count, Z) to make images of, on the model's device."""
        return torch.randn(count, self.latent, device=next(self.parameters()).device)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> the discriminator's scores (B, 1)."""
        scores: Tensor = self.discriminator(x)
        return scores


def _halvings(height: int, width: int) -> int:
    stages = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) > SMALLEST:
        height, width, stages = height // 2, width // 2, stages + 1
    return stages


def _generator(latent: int, widths: list[int], size: tuple[int, int], channels: int) -> nn.Sequential:
    """(B, Z) -> (B, widths[0], h, w) -> ... -> (B, C, H, W); no bias where a normalisation would take it off again."""
    h, w = size
    layers: list[nn.Module] = [
        nn.Linear(latent, widths[0] * h * w, bias=False),
        nn.Unflatten(1, (widths[0], h, w)),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    for wide, narrow in pairwise(widths):
        layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())


def _discriminator(channels: int, widths: list[int], size: tuple[int, int], batch_norm: bool) -> nn.Sequential:
    """(B, C, H, W) -> ... -> (B, widths[-1], h, w) -> (B, 1)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(SLOPE)]
    for narrow, wide in pairwise(widths):
        layers.append(nn.Conv2d(narrow, wide, 4, 2, 1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(wide)] if batch_norm else []
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * size[0] * size[1], 1))


def _initialise(module: nn.Module) -> None:
    """Weights normal(0, 0.02), the scales of normalisations normal(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

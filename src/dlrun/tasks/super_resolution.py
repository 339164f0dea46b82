"""Super-resolution: a picture of low resolution in, the same picture several times larger out.

Shape legend: B batch, C channels, h and w low resolution, H = scale * h and W = scale * w high resolution.

Quality is measured as in C. Dong et al., "Learning a deep convolutional network for image super-resolution", ECCV 2014:
peak signal-to-noise ratio of 8-bit luma without a border of ``scale`` pixels, averaged over whole pictures, beside that
of bicubic interpolation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun import metrics
from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss
from dlrun.models.bicubic import resize
from dlrun.tasks import Batch, Logs, Measured, Monitor, Network, Source, check_loss

SIDE = 256  # pixels of low resolution that go through the network at once, and
MARGIN = 24  # what is added around them so that the seams cannot be seen


class SuperResolution:
    """Outputs (B, C, H, W) against the true picture, all values from 0 to 1.

    Raises:
        ConfigError: the data are not made for it, or the loss is not one between numbers.
    """

    name: ClassVar[str] = "super_resolution"
    pixels: ClassVar[str] = "unit"
    requires: ClassVar[tuple[str, ...]] = ()
    usual_loss: ClassVar[str] = "MeanSquaredError"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "images"

    def __init__(self, loss: Loss, facts: Facts) -> None:
        if facts.task != self.name:
            raise ConfigError(
                f"task=super_resolution needs pictures in two sizes, and '{facts.name}' has one; use data=superres "
                "data.path=FOLDER"
            )
        check_loss(loss, self.name, facts)
        self.loss_function, self.facts = loss, facts
        self.monitor = Monitor("psnr", higher_is_better=True)

    def out_shape(self) -> tuple[int, ...]:
        """(C, H, W) of a training patch."""
        return self.facts.target_shape

    def metric_names(self) -> tuple[str, ...]:
        """The loss, the peak signal-to-noise ratio in decibels and the structural similarity."""
        return ("loss", "psnr", "ssim")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        shape = " x ".join(map(str, self.facts.target_shape))
        return f"{shape} values, identity", f"a picture {self.facts.scale} times larger"

    def example(self) -> Batch:
        """Two black patches."""
        return torch.zeros(2, *self.facts.input_shape), torch.zeros(2, *self.facts.target_shape)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Nothing to learn from the training part."""

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Forward pass and loss of a batch of patches."""
        inputs, targets = batch
        loss = self.loss_function(model(inputs), targets)
        return loss, {"loss": loss.detach()}

    def images(self, model: Network, inputs: Tensor) -> Tensor:
        """Pictures of any size (B, C, h, w) made larger: (B, C, H, W)."""
        return enlarged(model, inputs, self.facts.scale)

    def measure(self, model: Network, batches: Iterable[Batch], split: str) -> Measured:
        """Loss, signal-to-noise ratio and similarity, each a mean over whole pictures, beside bicubic interpolation."""
        network, bicubic = [], []
        for inputs, targets in batches:
            network.append(self._quality(self.images(model, inputs).float(), targets))
            bicubic.append(self._quality(resize(inputs, *targets.shape[-2:]), targets))
        return Measured(_mean(network), _mean(bicubic))

    def _quality(self, outputs: Tensor, targets: Tensor) -> Logs:
        """Metrics of pictures of one size, each (B,) or 0-d."""
        border = self.facts.scale
        seen = [
            (255 * x.double()).round().clamp(0, 255)[..., border:-border, border:-border] for x in (outputs, targets)
        ]
        return {
            "loss": self.loss_function(outputs, targets),
            "psnr": metrics.psnr(seen[0], seen[1], peak=255),
            "ssim": metrics.ssim(seen[0], seen[1], peak=255),
        }

    def state(self) -> dict[str, Any]:
        """Nothing was learnt."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take from a checkpoint."""


def enlarged(model: Network, inputs: Tensor, scale: int) -> Tensor:
    """The network's pictures (B, C, H, W); a large one goes through in overlapping pieces, to the same result.

    The same as long as an output pixel depends on no more than ``MARGIN`` pixels of low resolution on each side.
    """
    height, width = inputs.shape[-2:]
    if max(height, width) <= SIDE + 2 * MARGIN:
        return model(inputs)
    rows = []
    for top in range(0, height, SIDE):
        row = []
        for left in range(0, width, SIDE):
            (above, tall), (before, wide) = _window(top, height), _window(left, width)
            piece = model(inputs[..., above : above + tall, before : before + wide])
            y, x = (top - above) * scale, (left - before) * scale
            row.append(piece[..., y : y + SIDE * scale, x : x + SIDE * scale])
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def _window(start: int, length: int) -> tuple[int, int]:
    """Where a piece with its margin begins, and how long it is."""
    first = max(0, start - MARGIN)
    return first, min(length, start + SIDE + MARGIN) - first


def _mean(found: list[Logs]) -> Logs:
    """Mean over all pictures of each metric."""
    return {name: torch.cat([each[name].double().reshape(-1) for each in found]).mean() for name in found[0]}

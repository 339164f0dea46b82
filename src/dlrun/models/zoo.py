"""Any classification network of ``torchvision.models`` by its name, with random weights; nothing is downloaded.

Differs from calling torchvision in: 1. grey images are repeated to three channels; 2. the output layer is sized from
the data; 3. auxiliary outputs of GoogLeNet and Inception are off; 4. a vision transformer is built for the data's size.

Shapes: B batch, C channels (1 or 3), H height, W width, N output units.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlrun.errors import ConfigError, did_you_mean
from dlrun.models.images import image_shape


def torchvision_model(name: str, in_shape: tuple[int, ...], out_features: int, **options: Any) -> nn.Module:
    """The network ``torchvision.models.<name>`` with random weights and ``out_features`` outputs.

    Args:
        name: as torchvision spells it (``resnet18``, ``mobilenet_v3_small``).
        in_shape: (C, H, W) of one image.
        out_features: number of output units.
        options: further keywords of torchvision's builder, such as ``dropout``.

    Raises:
        ConfigError: no such network, no images, or neither grey nor colour images.
    """
    from torchvision import models

    channels, height, width = image_shape(in_shape, "torchvision")
    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(f"model.name={name} is no classification network of torchvision{did_you_mean(name, names)}")
    if channels not in (1, 3):
        raise ConfigError(
            f"model.name={name} takes grey or colour images but these have {channels} channels; use model=cnn"
        )
    fixed = _fixed_options(name, height, width)
    network: nn.Module = models.get_model(name, weights=None, num_classes=out_features, **(fixed | options))
    return nn.Sequential(GreyToColour(), network) if channels == 1 else network


class GreyToColour(nn.Module):
    """Grey images repeated to three equal channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 3, H, W)."""
        return x.expand(-1, 3, -1, -1)


def _fixed_options(name: str, height: int, width: int) -> dict[str, Any]:
    """Keywords without which a builder warns, returns more than one output, or has the wrong image size."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    if name.startswith("vit_"):
        if height != width:
            raise ConfigError(f"model.name={name} takes square images but these are {height}x{width}; use model=resnet")
        return {"image_size": height}
    return {}

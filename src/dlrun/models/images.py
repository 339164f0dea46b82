"""What the image families share: the refusal of inputs that are no images."""

from __future__ import annotations

from dlrun.errors import ConfigError


def image_shape(in_shape: tuple[int, ...], family: str) -> tuple[int, int, int]:
    """``in_shape`` as (channels C, height H, width W).

    Raises:
        ConfigError: the examples are no images; names the models that can take them.
    """
    if len(in_shape) != 3:
        shape = "x".join(map(str, in_shape))
        raise ConfigError(
            f"model={family} needs images (channels x height x width) but one example here has shape {shape}; "
            "use model=mlp or model=perceptron, or an image data set such as data=digits"
        )
    channels, height, width = in_shape
    return channels, height, width

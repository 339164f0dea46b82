"""The vision transformer: patches that tile the picture, and their size found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.vit import VisionTransformer, patch_side, patches


def test_patches_are_the_windows_of_a_convolution_with_its_side_as_stride() -> None:
    """A linear layer over patches is ``nn.Conv2d`` with kernel and stride S, as the paper's code has it."""
    x, convolution, linear = torch.randn(2, 3, 6, 8), nn.Conv2d(3, 5, 2, stride=2), nn.Linear(12, 5)
    with torch.no_grad():
        linear.weight.copy_(convolution.weight.flatten(1))
        linear.bias.copy_(convolution.bias)  # type: ignore[arg-type]
    expected = convolution(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(linear(patches(x, 2)), expected, rtol=1e-5, atol=1e-6)
    assert patches(x, 2).shape == (2, 12, 12)


@pytest.mark.parametrize(
    ("height", "breadth", "side"), [(8, 8, 2), (28, 28, 7), (32, 32, 8), (112, 92, 4), (7, 7, 1), (3, 9, 1)]
)
def test_the_largest_patch_that_leaves_four_on_either_side(height: int, breadth: int, side: int) -> None:
    assert patch_side(height, breadth, "auto") == side


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_pictures_in_scores_out(pooling: str) -> None:
    model = VisionTransformer((1, 8, 12), 5, nn.GELU, patch=4, width=16, pooling=pooling)
    assert model(torch.randn(3, 1, 8, 12)).shape == (3, 5)


def test_patches_have_a_place() -> None:
    model = VisionTransformer((1, 4, 4), 2, nn.GELU, patch=2, width=16).eval()
    nn.init.normal_(model.encoder.positions.table.weight)
    x = torch.randn(1, 1, 4, 4)
    assert not torch.allclose(model(x), model(x.roll(2, 3)), atol=1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"model.patch=3 must divide a picture of 8x8: use one of \[1, 2, 4, 8\], or auto"
    ):
        VisionTransformer((1, 8, 8), 10, nn.ReLU, patch=3)
    with pytest.raises(ConfigError, match="model=vit needs images"):
        VisionTransformer((4,), 3, nn.ReLU)


def test_too_many_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"set model\.patch"):
        patch_side(64, 51, "auto")
    assert patch_side(64, 51, 1) == 1

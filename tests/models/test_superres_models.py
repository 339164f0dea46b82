"""SRCNN and ESPCN: shapes, the arithmetic of their parts, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.bicubic import resize
from dlrun.models.espcn import ESPCN
from dlrun.models.srcnn import SRCNN


@pytest.mark.parametrize("family", [SRCNN, ESPCN])
@pytest.mark.parametrize("scale", [2, 3])
def test_pictures_of_any_size_come_out_larger(family: type[nn.Module], scale: int) -> None:
    model = family(in_shape=(1, 11, 11), scale=scale, activation=nn.ReLU)
    assert model(torch.rand(2, 1, 11, 11)).shape == (2, 1, 11 * scale, 11 * scale)
    assert model(torch.rand(1, 1, 9, 14)).shape == (1, 1, 9 * scale, 14 * scale)


def test_parameters_are_the_paper_s() -> None:
    """9-1-5 with 64 and 32 maps: 8,032 weights (Dong et al. 2016, section 4.1) and a bias per map."""
    model = SRCNN((1, 11, 11), 3, nn.ReLU)
    assert sum(p.numel() for p in model.parameters() if p.ndim == 4) == 8032
    assert sum(p.numel() for p in model.parameters()) == 8032 + 64 + 32 + 1


def test_srcnn_is_bicubic_and_what_its_layers_add() -> None:
    x = torch.rand(1, 1, 8, 8)
    model = SRCNN((1, 8, 8), 3, nn.ReLU)
    base = resize(x, 24, 24)
    torch.testing.assert_close(model(x), base, rtol=0, atol=0.02)  # untrained: nearly nothing is added
    torch.testing.assert_close(model(x), base + model.layers(base))
    direct = SRCNN((1, 8, 8), 3, nn.ReLU, residual=False)
    torch.testing.assert_close(direct(x), direct.layers(base))


def test_espcn_weaves_maps_into_pixels() -> None:
    """Equation (4): pixel (y, x) of the large picture is map (y mod r) r + (x mod r) at (y // r, x // r)."""
    model = ESPCN((1, 5, 6), 3, nn.Tanh)
    x = torch.rand(1, 1, 5, 6)
    maps, large = model.layers(x), model(x)
    for y, column in [(0, 0), (4, 7), (14, 17)]:
        assert large[0, 0, y, column] == maps[0, (y % 3) * 3 + column % 3, y // 3, column // 3]


@pytest.mark.parametrize("family", [SRCNN, ESPCN])
def test_what_cannot_be_built(family: type[nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"model\.kernels=\[9, 2, 5\] must be odd"):
        family(in_shape=(1, 8, 8), scale=2, activation=nn.ReLU, kernels=[9, 2, 5])
    with pytest.raises(ConfigError, match=r"one more than model\.maps=\[8\]"):
        family(in_shape=(1, 8, 8), scale=2, activation=nn.ReLU, maps=[8])
    with pytest.raises(ConfigError, match="a layer without maps"):
        family(in_shape=(1, 8, 8), scale=2, activation=nn.ReLU, maps=[8, 0])
    with pytest.raises(ConfigError, match="needs images"):
        family(in_shape=(8,), scale=2, activation=nn.ReLU)

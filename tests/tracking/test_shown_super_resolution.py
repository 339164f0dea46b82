"""The picture of super-resolution: four panels of one size, from what was seen to the truth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dlrun.data.facts import Facts
from dlrun.losses import MeanSquaredError
from dlrun.models.bicubic import resize
from dlrun.models.espcn import ESPCN
from dlrun.tasks.super_resolution import SuperResolution
from dlrun.tracking.canvas import WHITE
from dlrun.tracking.shown.super_resolution import drawings

FACTS = Facts("superres", "image", (1, 11, 11), "super_resolution", scale=3, target_shape=(1, 33, 33))


@pytest.mark.parametrize("size", [(22, 30), (120, 100)])
def test_four_panels_side_by_side(size: tuple[int, int]) -> None:
    height, width = size
    high = torch.rand(1, 1, 3 * height, 3 * width)
    look = SimpleNamespace(
        model=ESPCN((1, 11, 11), 3, nn.ReLU), task=SuperResolution(MeanSquaredError(), FACTS), facts=FACTS,
        device=torch.device("cpu"), inputs=resize(high, height, width), targets=high,
    )  # fmt: skip
    before = torch.get_rng_state()
    draw = drawings(look)["pictures/enlarged"]  # type: ignore[arg-type]
    image = draw()
    assert image is not None
    assert not isinstance(image, str)
    panel = (image.width - 50) // 4
    assert image.width == 4 * panel + 50
    assert panel >= 200
    middle = [image.getpixel((10 + i * (panel + 10) + panel // 2, image.height // 2)) for i in range(4)]
    assert all(red == green == blue for red, green, blue in middle)  # type: ignore[misc]
    assert image.getpixel((5, image.height - 5)) == WHITE
    assert torch.equal(torch.get_rng_state(), before)

"""The super-resolution task: the measure of the literature, and pictures of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlrun import metrics
from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import CrossEntropy, MeanSquaredError
from dlrun.models.bicubic import resize
from dlrun.models.srcnn import SRCNN
from dlrun.tasks.super_resolution import MARGIN, SIDE, SuperResolution, enlarged

FACTS = Facts("superres", "image", (1, 11, 11), "super_resolution", scale=3, target_shape=(1, 33, 33))


def task() -> SuperResolution:
    return SuperResolution(MeanSquaredError(), FACTS)


def bicubic(x: torch.Tensor) -> torch.Tensor:
    return resize(x, 3 * x.shape[-2], 3 * x.shape[-1])


def test_bicubic_on_set5_is_what_the_literature_reports(shared_data: Path) -> None:
    """Dong et al. 2014, table 1: 30.39 dB; its structural similarity is 0.8682 (W.-S. Lai et al. 2017, table 2)."""
    from dlrun.data.superres import low_and_high

    files = sorted((shared_data / "superres" / "Set5").glob("*.png"))
    assert len(files) == 5
    pairs = [low_and_high(file, 3) for file in files]
    found = task().measure(bicubic, [(low / 255, high) for low, high in pairs], "test")
    assert found.metrics["psnr"].item() == pytest.approx(30.39, abs=0.005)
    assert found.metrics["ssim"].item() == pytest.approx(0.8682, abs=0.001)
    assert all(torch.equal(found.metrics[name], found.baseline[name]) for name in task().metric_names())


def test_loss_is_the_mean_squared_error_of_patches() -> None:
    inputs, targets = torch.rand(4, 1, 11, 11), torch.rand(4, 1, 33, 33)
    loss, logs = task().loss(bicubic, (inputs, targets))
    assert loss.item() == pytest.approx(F.mse_loss(bicubic(inputs), targets).item())
    assert torch.equal(logs["loss"], loss)


def test_signal_to_noise_ratio_in_decibels() -> None:
    white, grey = torch.ones(2, 1, 12, 12), torch.ones(2, 1, 12, 12)
    grey[0] -= 0.1
    ratio = metrics.psnr(grey, white)
    assert ratio[0].item() == pytest.approx(20, abs=1e-5)
    assert ratio[1].item() == pytest.approx(20 * torch.log10(torch.tensor(255.0 * 12)).item())  # one pixel, one 255th


def test_structural_similarity_by_hand() -> None:
    """On two flat pictures only the means are left: (2ab + c1) / (a^2 + b^2 + c1)."""
    a, b = torch.full((1, 1, 15, 13), 0.5), torch.full((1, 1, 15, 13), 0.25)
    expected = (2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4)
    assert metrics.ssim(a, b).item() == pytest.approx(expected, rel=1e-6)
    noise = torch.rand(2, 1, 20, 20)
    assert metrics.ssim(noise, noise).tolist() == pytest.approx([1, 1])
    assert metrics.ssim(noise, torch.rand(2, 1, 20, 20)).max() < 0.3


def test_the_border_and_values_beyond_white_do_not_count() -> None:
    """The frame of three pixels is wrong, and white is overshot: neither is seen in 8 bits inside the frame."""
    high = torch.full((1, 1, 33, 33), 0.8)
    high[..., 10:20, 10:20] = 1.0
    output = torch.zeros(1, 1, 33, 33)
    output[..., 3:-3, 3:-3] = high[..., 3:-3, 3:-3]
    output[..., 10:20, 10:20] = 1.7
    found = task().measure(lambda x: output, [(torch.zeros(1, 1, 11, 11), high)], "test")
    assert found.metrics["psnr"] > 70
    assert found.metrics["ssim"].item() == pytest.approx(1)


def test_pictures_of_several_sizes_count_alike() -> None:
    batches = [
        (torch.rand(1, 1, 10, 12), torch.rand(1, 1, 30, 36)),
        (torch.rand(1, 1, 20, 9), torch.rand(1, 1, 60, 27)),
    ]
    each = [task().measure(bicubic, [batch], "val").metrics["psnr"] for batch in batches]
    both = task().measure(bicubic, batches, "val").metrics["psnr"]
    assert both.item() == pytest.approx(sum(each).item() / 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [(SIDE + 2 * MARGIN + 1, 40), (60, 2 * SIDE + 30)])
def test_a_large_picture_goes_through_in_pieces_without_a_seam(size: tuple[int, int]) -> None:
    model = SRCNN((1, 11, 11), 2, nn.ReLU, maps=(4, 2))
    picture = torch.rand(1, 1, *size)
    with torch.no_grad():
        seen: list[int] = []
        pieces = enlarged(lambda x: seen.append(x.numel()) or model(x), picture, 2)  # type: ignore[func-returns-value]
        assert len(seen) > 1
        torch.testing.assert_close(pieces, model(picture), rtol=0, atol=1e-6)


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match=r"use data=superres"):
        SuperResolution(MeanSquaredError(), Facts("digits", "image", (1, 8, 8), "classification", classes=("a", "b")))
    with pytest.raises(ConfigError, match="use loss=mse"):
        SuperResolution(CrossEntropy(), FACTS)
    own = task()
    own.restore(own.state())
    assert own.out_shape() == own.example()[1].shape[1:] == (1, 33, 33)
    assert own.metric_names()[0] == "loss"

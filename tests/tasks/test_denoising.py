"""Denoising: three corruptions, the clean input as the target, the corrupted one as the baseline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import BinaryCrossEntropy, MeanSquaredError
from dlrun.tasks.denoising import Denoising, gaussian, masking, salt_pepper

IMAGES = Facts("digits", "image", (1, 4, 4), "classification", classes=("a", "b"))
PIXELS = torch.rand(90, 1, 4, 4, generator=torch.Generator().manual_seed(10))
GREY = torch.full((200, 200), 0.5)


def batches(size: int = 40) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in PIXELS.split(size)]


def task(**keys: Any) -> Denoising:
    return Denoising(MeanSquaredError(), IMAGES, **keys)


# 40,000 draws: five standard errors of a share are below 0.0125, of a mean of deviation 0.3 below 0.0075.
def test_gaussian_noise_has_the_deviation() -> None:
    noise = gaussian(GREY, 0.3, (0, 1)) - GREY
    assert abs(noise.mean().item()) < 0.0075
    assert noise.std().item() == pytest.approx(0.3, abs=0.0075)


def test_masking_sets_the_share_to_zero_and_leaves_the_rest() -> None:
    out = masking(GREY, 0.2, (0, 1))
    assert set(out.unique().tolist()) == {0.0, 0.5}
    assert (out == 0).float().mean().item() == pytest.approx(0.2, abs=0.0125)


def test_salt_and_pepper_are_the_ends_of_the_range_equally_often() -> None:
    out = salt_pepper(GREY, 0.4, (-1.0, 3.0))
    assert set(out.unique().tolist()) == {-1.0, 0.5, 3.0}
    for end in (-1.0, 3.0):
        assert (out == end).float().mean().item() == pytest.approx(0.2, abs=0.0125)


@pytest.mark.parametrize("corruption", ["gaussian", "masking", "salt_pepper"])
def test_the_network_sees_a_corrupted_input_and_is_asked_for_the_clean_one(corruption: str) -> None:
    chosen = task(corruption=corruption, amount=0.5)
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x).flatten(1)

    loss, logs = chosen.loss(model, batches(90)[0])
    assert loss.item() == pytest.approx(PIXELS.square().mean().item())
    assert logs["loss"].item() == loss.item()
    assert 0.2 < (seen[0] != PIXELS).float().mean() <= 1
    chosen.loss(model, batches(90)[0])
    assert not torch.equal(seen[0], seen[1]), "drawn anew each time"


def test_the_baseline_is_the_corrupted_input_itself() -> None:
    found = task(amount=0.3).measure(lambda x: x, batches(), "val")
    torch.testing.assert_close(found.metrics["squared_error"], found.baseline["squared_error"])
    expected = 0.3 * PIXELS.square().flatten(1).sum(1).mean().item()  # a masked pixel errs by its own square
    assert found.baseline["squared_error"].item() == pytest.approx(expected, rel=0.15)  # 1,440 draws


def test_a_fixed_seed_measures_the_same() -> None:
    chosen, found = task(), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(chosen.measure(lambda x: x / 2, batches(), "val").metrics)
    assert found[0] == found[1]


def test_salt_and_pepper_are_learnt_from_the_training_part() -> None:
    chosen = task(corruption="salt_pepper", amount=1.0)
    chosen.fit(torch.zeros(90), lambda: [(2 * x - 1, y) for x, y in batches()])
    ends = {(2 * PIXELS - 1).min().item(), (2 * PIXELS - 1).max().item()}
    assert set(chosen.corrupt(PIXELS).unique().tolist()) == ends
    other = task(corruption="salt_pepper", amount=1.0)
    other.restore(chosen.state())
    assert set(other.corrupt(PIXELS).unique().tolist()) == ends


def test_images_of_the_user_are_not_corrupted_further() -> None:
    assert torch.equal(task().images(lambda x: x, PIXELS), PIXELS)
    logits = Denoising(BinaryCrossEntropy(), IMAGES).images(lambda x: x, PIXELS)
    assert torch.equal(logits, PIXELS.sigmoid())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"corruption": "gausian"}, "did you mean 'gaussian'"),
        ({"amount": 0.0}, r"task\.amount=0\.0 must be positive"),
        ({"amount": 1.5}, "at most 1 where it is a share"),
    ],
)
def test_wrong_settings_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        task(**keys)


def test_noise_may_be_wider_than_the_range() -> None:
    assert task(corruption="gaussian", amount=1.5).amount == 1.5

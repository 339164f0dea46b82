"""The pictures of autoencoders: which there are, what is on them, and that looking changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlrun.data.facts import Facts
from dlrun.losses import BinaryCrossEntropy, MeanSquaredError
from dlrun.models.autoencoder import Autoencoder
from dlrun.models.vae import VAE
from dlrun.tasks.denoising import Denoising
from dlrun.tasks.reconstruction import Reconstruction
from dlrun.tasks.variational import Variational
from dlrun.tracking.shown import denoising, reconstruction, variational

IMAGES = Facts("digits", "image", (1, 8, 8), "classification", classes=("a", "b"))
COLOUR = Facts("photos", "image", (3, 8, 6), "classification", classes=("a", "b"))
TABLE = Facts("wine", "table", (6,), "classification", classes=("a", "b"))


def look(task: Any, model: nn.Module, facts: Facts, count: int = 12) -> Any:
    return SimpleNamespace(
        model=model,
        task=task,
        facts=facts,
        device=torch.device("cpu"),
        inputs=torch.rand(count, *facts.input_shape),
        targets=torch.zeros(count, dtype=torch.int64),
        filters=lambda: None,
    )


def autoencoder(facts: Facts) -> Autoencoder:
    return Autoencoder(facts.input_shape, nn.Tanh, hidden=(8,), code=2)


def vae(facts: Facts, code: int = 2) -> VAE:
    return VAE(facts.input_shape, nn.Tanh, hidden=(8,), code=code)


CASES = [
    (reconstruction, lambda f: Reconstruction(MeanSquaredError(), f), autoencoder, {"reconstructions", "filters"}),
    (denoising, lambda f: Denoising(MeanSquaredError(), f), autoencoder, {"cleaned", "filters"}),
    (
        variational,
        lambda f: Variational(BinaryCrossEntropy(), f),
        vae,
        {"reconstructions", "samples", "walk", "filters"},
    ),
]


@pytest.mark.parametrize("facts", [IMAGES, COLOUR], ids=lambda facts: facts.name)
@pytest.mark.parametrize(("module", "task", "model", "names"), CASES)
def test_every_picture_is_drawn_the_same_twice_and_moves_nothing(
    module: Any, task: Any, model: Any, names: set[str], facts: Facts
) -> None:
    gallery = look(task(facts), model(facts), facts)
    drawings = module.drawings(gallery)
    assert set(drawings) == {f"pictures/{name}" for name in names}
    before = torch.get_rng_state()
    for name, draw in drawings.items():
        if name != "pictures/filters":
            first, second = np.array(draw()), np.array(draw())
            assert first.std() > 1, name
            np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert gallery.model.training


@pytest.mark.parametrize(("module", "task", "model", "names"), CASES)
def test_data_that_are_no_images_have_no_pictures(module: Any, task: Any, model: Any, names: set[str]) -> None:
    assert module.drawings(look(task(TABLE), model(TABLE), TABLE)) == {}


def test_a_walk_needs_a_plane() -> None:
    task = Variational(BinaryCrossEntropy(), IMAGES)
    assert "pictures/walk" not in variational.drawings(look(task, vae(IMAGES, code=3), IMAGES))


def test_a_perfect_reconstruction_looks_like_its_image() -> None:
    task: Any = SimpleNamespace(images=lambda model, x: x)
    gallery = look(task, autoencoder(IMAGES), IMAGES, count=2)
    pixels = np.array(reconstruction.reconstructions(gallery))
    tile = 56  # of 8 pixels, seven times enlarged
    above, below = pixels[38 : 38 + tile, 10 : 10 + tile], pixels[38 + tile + 3 : 38 + 2 * tile + 3, 10 : 10 + tile]
    np.testing.assert_array_equal(above, below)
    assert above.std() > 30


def test_both_rows_have_the_images_own_scale() -> None:
    images = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1)
    levels = reconstruction.grey_levels([images, images + 1])
    assert [row[:, 0, 0, 0].tolist() for row in levels] == [[0, 255], [128, 255]]


def test_large_pictures_are_shrunk_and_odd_channels_shown_as_the_first() -> None:
    assert max(reconstruction.tile(reconstruction.as_bytes(torch.rand(1, 3, 300, 200))[0]).size) == 128
    two = reconstruction.as_bytes(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    assert two.flatten().tolist() == [255, 255, 255]
    assert reconstruction.as_bytes(torch.tensor([float("nan")]).view(1, 1, 1, 1)).sum() == 0


def test_the_walk_goes_upwards_and_to_the_right() -> None:
    class Plane(nn.Module):
        code_features = 2

        def decode(self, code: torch.Tensor) -> torch.Tensor:
            return code[:, :1].expand(-1, 4).reshape(-1, 1, 2, 2) + 10 * code[:, 1:].reshape(-1, 1, 1, 1)

    task = Variational(MeanSquaredError(), Facts("d", "image", (1, 2, 2), "classification", classes=("a", "b")))
    gallery = look(task, Plane(), IMAGES)
    gallery.inputs = torch.tensor([-20.0, 20.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    pixels = np.array(variational.walk(gallery))[:, :, 0].astype(int)
    tile = 56
    corners = {(row, column): pixels[38 + row * tile + 20, column * tile + 20] for row in (0, 14) for column in (0, 14)}
    assert corners[0, 0] > corners[14, 0] + 100, "the second dimension grows upwards"
    assert corners[0, 14] > corners[0, 0] + 10, "the first one to the right"

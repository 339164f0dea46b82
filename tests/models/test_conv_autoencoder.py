"""The convolutional autoencoder gives back exactly the shape it was given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.conv_autoencoder import ConvAutoencoder


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 7, 13), (2, 1, 5), (3, 1, 1)])
@pytest.mark.parametrize("channels", [(4,), (4, 6, 8)])
def test_any_size_comes_back(shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
    model = ConvAutoencoder(shape, nn.ReLU, channels=channels, code=5)
    x = torch.rand(2, *shape)
    assert model.encode(x).shape == (2, 5)
    assert model(x).shape == x.shape
    assert torch.equal(model(x), model.decode(model.encode(x)))
    assert model.code_features == 5


def test_every_stage_halves_the_image() -> None:
    model = ConvAutoencoder((1, 7, 13), nn.ReLU, channels=(4, 6), code=5)
    assert model.encoder[:2](torch.rand(1, 1, 7, 13)).shape == (1, 6, 2, 4)


def test_the_output_is_not_bounded_by_an_activation() -> None:
    model = ConvAutoencoder((1, 4, 4), nn.ReLU, channels=(4,), code=2)
    assert (model(torch.rand(50, 1, 4, 4)) < 0).any()


@pytest.mark.parametrize(
    ("shape", "keys", "words"),
    [
        ((12,), {}, "model=conv_autoencoder needs images"),
        ((1, 8, 8), {"channels": ()}, r"model\.channels=\[\] needs stages"),
        ((1, 8, 8), {"channels": (4, 0)}, "at least one channel"),
        ((1, 8, 8), {"code": 0}, r"model\.code=0"),
    ],
)
def test_what_cannot_be_built_is_refused(shape: tuple[int, ...], keys: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ConvAutoencoder(shape, nn.ReLU, **keys)  # type: ignore[arg-type]

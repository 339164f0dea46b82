"""The variational autoencoder: shapes, the mean as the code, and one head for mean and variance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.vae import VAE

X = torch.rand(5, 1, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_shapes(hidden: tuple[int, ...]) -> None:
    model = VAE((1, 4, 3), nn.Tanh, hidden=hidden, code=2)
    mean, log_variance = model.posterior(X)
    assert mean.shape == log_variance.shape == (5, 2)
    assert model.decode(mean).shape == model(X).shape == X.shape
    assert model.code_features == 2


def test_the_arithmetic_by_hand() -> None:
    model = VAE((1, 4, 3), nn.Tanh, hidden=(8,), code=2)
    state = model.state_dict()
    h = (X.flatten(1) @ state["encoder.0.weight"].t() + state["encoder.0.bias"]).tanh()
    head = h @ state["posterior_layer.weight"].t() + state["posterior_layer.bias"]
    torch.testing.assert_close(torch.cat(model.posterior(X), 1), head)
    g = (head[:, :2] @ state["decoder.0.weight"].t() + state["decoder.0.bias"]).tanh()
    out = g @ state["output.weight"].t() + state["output.bias"]
    torch.testing.assert_close(model(X).flatten(1), out)


def test_the_reconstruction_is_that_of_the_mean_code_and_draws_nothing() -> None:
    model = VAE((1, 4, 3), nn.Tanh, hidden=(8,), code=2)
    assert torch.equal(model.encode(X), model.posterior(X)[0])
    assert torch.equal(model(X), model(X))
    assert torch.equal(model(X), model.decode(model.encode(X)))


def test_layers_without_units_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.code=0"):
        VAE((4,), nn.Tanh, code=0)
    with pytest.raises(ConfigError, match="without units"):
        VAE((4,), nn.Tanh, hidden=(3, 0))

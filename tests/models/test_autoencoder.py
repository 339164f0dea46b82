"""The deep autoencoder: its arithmetic by hand, tied weights, and its layers as Boltzmann machines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.autoencoder import Autoencoder

SHAPE = (1, 4, 3)
X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def network(activation: Callable[[], nn.Module] = nn.Tanh, **keys: Any) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SHAPE, activation, **{"hidden": (8, 6), "code": 2} | keys)


def by_hand(model: Autoencoder, x: Tensor, tied: bool) -> tuple[Tensor, Tensor]:
    """Code and reconstruction from the state's numbers alone."""
    state = model.state_dict()
    down = [(state[f"encoder.{n}.weight"], state[f"encoder.{n}.bias"]) for n in range(3)]
    weights = [w.t() for w, _ in down[::-1]] if tied else [state[f"decoder.{n}.weight"] for n in range(3)]
    up = list(zip(weights, [state[f"decoder.{n}.bias"] for n in range(3)], strict=True))
    h = x.flatten(1)
    for n, (w, b) in enumerate([*down, *up]):
        h = h @ w.t() + b
        h = h if n in (2, 5) else h.tanh()  # the code and the output are linear
        code = h if n == 2 else code if n > 2 else h  # noqa: F821
    return code, h.view(-1, *SHAPE)


@pytest.mark.parametrize("tied", [False, True])
def test_the_arithmetic_is_the_books(tied: bool) -> None:
    model = network(tied=tied)
    for bias in (p for p in model.parameters() if p.ndim == 1):
        nn.init.normal_(bias)
    code, outputs = by_hand(model, X, tied)
    torch.testing.assert_close(model.encode(X), code)
    torch.testing.assert_close(model(X), outputs)
    torch.testing.assert_close(model.decode(code), outputs)
    assert model.code_features == 2


def test_tied_weights_are_one_parameter_with_one_gradient() -> None:
    free, tied = network(), network(tied=True)
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters()) == 12 * 8 + 8 * 6 + 12
    free.load_state_dict(tied.state_dict(), strict=False)
    free.unroll_stack()
    torch.testing.assert_close(free(X), tied(X))
    for model in (free, tied):
        model(X).square().sum().backward()
    for n in range(3):
        both = free.encoder[n].weight.grad + free.decoder[2 - n].weight.grad.t()
        torch.testing.assert_close(tied.encoder[n].weight.grad, both)


def test_a_copy_of_a_tied_network_is_tied_to_itself() -> None:
    model = network(tied=True)
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.encoder[0].weight.zero_()
    assert not torch.equal(other(X), model(X))
    assert torch.equal(other(X), network(tied=True)(X))


def test_the_signal_does_not_fade_over_eight_layers() -> None:
    torch.manual_seed(0)
    model = Autoencoder((784,), nn.Tanh)
    x = torch.randn(200, 784)
    assert model(x).std() > 0.1  # 0.004 with torch's own start


@pytest.mark.parametrize(("keys", "words"), [({"hidden": (8, 0)}, "without units"), ({"code": 0}, r"model\.code=0")])
def test_layers_without_units_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        network(**keys)


@pytest.mark.parametrize("tied", [False, True])
def test_the_stack_is_the_network_itself(tied: bool) -> None:
    model = network(nn.Sigmoid, tied=tied)
    views = model.stack()
    assert [tuple(view.weight.shape) for view in views] == [(8, 12), (6, 8), (2, 6)]
    assert [(view.visible, view.hidden) for view in views] == [("bernoulli",) * 2] * 2 + [("bernoulli", "gaussian")]
    with torch.no_grad():
        for view in views:
            for part in (view.weight, view.visible_bias, view.hidden_bias):
                part.copy_(torch.randn(part.shape))
        h = X.flatten(1)
        for view in views:
            h = view.hidden_mean(h)
        torch.testing.assert_close(model.encode(X), h)
        model.unroll_stack()
        for view in views[::-1]:
            h = view.visible_mean(h)  # the output's logistic unit is the loss's
        torch.testing.assert_close(model(X).sigmoid().flatten(1), h)


def test_a_table_has_gaussian_inputs_and_other_units_have_no_stack() -> None:
    assert Autoencoder((7,), nn.Sigmoid, hidden=(4,), code=2).stack()[0].visible == "gaussian"
    with pytest.raises(ConfigError, match="use activation=sigmoid"):
        network(nn.ReLU).stack()

"""The transformer encoder: any sequence, padding that is not seen, order that is, and both ways to pool."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.transformer_encoder import ClassToken, Encoder, MeanPooling, TransformerEncoder

EVERY = [("learned", "mean"), ("learned", "class"), ("rotary", "mean"), ("rotary", "class")]
both = pytest.mark.parametrize(("positions", "pooling"), EVERY)


def make(in_shape: tuple[int, ...], out_shape: tuple[int, ...] = (3,), **more: Any) -> TransformerEncoder:
    return TransformerEncoder(in_shape, out_shape, nn.GELU, **({"width": 16, "heads": 2} | more)).eval()


def tokens() -> Tensor:
    return torch.tensor([[1, 2, 3, 4, 0, 0], [5, 4, 3, 2, 1, 6], [2, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(("in_shape", "out_shape"), [((9, 4), (5, 2)), ((2, 4, 7), (3,)), ((6,), (1,))])
def test_any_sequence_to_any_answer(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
    assert make(in_shape, out_shape)(torch.randn(2, *in_shape)).shape == (2, *out_shape)


@both
def test_padding_changes_nothing(positions: str, pooling: str) -> None:
    """A text filled up to six tokens has the answer of the text alone."""
    model = make((6,), vocabulary=7, padding=0, positions=positions, pooling=pooling)
    whole = model(tokens())
    assert whole.isfinite().all()
    shorter = TransformerEncoder(
        (4,), (3,), nn.GELU, 7, 0, width=16, heads=2, positions=positions, pooling=pooling
    ).eval()
    steps = 4 + (pooling == "class")
    weights = {k: v[:steps] if "positions" in k else v for k, v in model.state_dict().items()}
    shorter.load_state_dict(weights)
    torch.testing.assert_close(whole[:1], shorter(tokens()[:1, :4]), rtol=1e-5, atol=1e-6)


@both
def test_the_order_of_the_steps_counts(positions: str, pooling: str) -> None:
    model = make((6, 4), positions=positions, pooling=pooling)
    for parameter in model.encoder.positions.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, 4)
    assert not torch.allclose(model(x), model(x.flip(1)), atol=1e-3)


def test_without_positions_the_mean_knows_no_order() -> None:
    model = make((6, 4))
    for parameter in model.encoder.positions.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 6, 4)
    torch.testing.assert_close(model(x), model(x.flip(1)), rtol=1e-4, atol=1e-5)


def test_the_mean_is_over_the_real_steps() -> None:
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = MeanPooling(3).after(x, mask)
    torch.testing.assert_close(found, torch.stack([x[0, :2].mean(0), x[1].mean(0)]))
    torch.testing.assert_close(MeanPooling(3).after(x, None), x.mean(1))


def test_the_class_token_stands_in_front_and_is_never_padding() -> None:
    pool, x = ClassToken(3), torch.randn(2, 4, 3)
    longer, mask = pool.before(x, torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(longer[:, 0], pool.token.expand(2, 3))
    assert torch.equal(longer[:, 1:], x)
    assert mask is not None
    assert mask.tolist() == [[True, False, False, False, False]] * 2
    assert torch.equal(pool.after(longer, mask), longer[:, 0])


def test_the_blocks_follow_one_another_and_end_in_a_normalisation() -> None:
    encoder = Encoder(5, nn.GELU, 2, 2, 16, 0.0, "learned", "mean").eval()
    x = torch.randn(3, 5, 16)
    hidden = x + encoder.positions.table.weight
    for block in encoder.blocks:
        hidden = block(hidden)
    torch.testing.assert_close(encoder(x), torch.nn.functional.layer_norm(hidden, (16,)).mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"positions": "rotery"}, r"model.positions=rotery: no such positions; did you mean 'rotary'\?"),
        ({"pooling": "max"}, "model.pooling=max: no such pooling; there are|did you mean"),
        ({"layers": 0}, r"model.layers=0 must be at least 1"),
        ({"heads": 3}, r"model.heads=3 must divide model.width=16"),
        ({"per_step": True}, "cannot say what comes after each step; use model=transformer"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make((6, 4), **more)

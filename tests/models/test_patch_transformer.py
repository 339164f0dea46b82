"""The patch transformer: patches by hand, forecasts that move and grow with the window, columns that do not meet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.patch_transformer import PatchTransformer

LENGTH, HORIZON, COLUMNS = 20, 5, 3


def make(columns: int = COLUMNS, targets: int = COLUMNS, **more: int) -> PatchTransformer:
    numbers = {"patch": 4, "stride": 2, "layers": 2, "heads": 2, "width": 8} | more
    return PatchTransformer((LENGTH, columns), (HORIZON, targets), nn.GELU, **numbers).eval()  # type: ignore[arg-type]


def test_patches_overlap_and_the_last_reaches_beyond_the_end() -> None:
    model, x = make(), torch.arange(20.0).reshape(1, 1, 20)
    found = model._patches(x)[0, 0]
    assert found[0].tolist() == [0, 1, 2, 3]
    assert found[1].tolist() == [2, 3, 4, 5]
    assert found[-1].tolist() == [18, 19, 19, 19]
    assert len(found) == (20 - 4) // 2 + 2
    assert make(patch=5, stride=3)(torch.randn(2, LENGTH, COLUMNS)).shape == (2, HORIZON, COLUMNS), "an uneven rest"


def test_the_forecast_moves_and_grows_with_the_window() -> None:
    """Instance normalisation: f(a x + b) = a f(x) + b, up to the small number added to the variance."""
    model, x = make(), torch.randn(2, LENGTH, COLUMNS)
    torch.testing.assert_close(model(100 * x + 7), 100 * model(x) + 7, rtol=1e-3, atol=1e-2)
    assert model(torch.full((1, LENGTH, COLUMNS), 3.0)).isfinite().all(), "a constant window"


def test_a_column_sees_itself_alone_and_all_have_the_same_weights() -> None:
    model, x = make(targets=2), torch.randn(2, LENGTH, COLUMNS)
    before = model(x)
    changed = x.clone()
    changed[..., 1:] = 0
    torch.testing.assert_close(before[..., 0], model(changed)[..., 0], rtol=1e-5, atol=1e-6)
    turned = model(x[..., [1, 0, 2]])
    torch.testing.assert_close(turned[..., [1, 0]], before, rtol=1e-5, atol=1e-6)


def test_the_encoder_is_torch_s_own() -> None:
    """Each block equals ``nn.TransformerEncoderLayer`` with the normalisation first, given the same weights."""
    model = make()
    block = model.blocks[0]
    theirs = nn.TransformerEncoderLayer(8, 2, 32, activation="gelu", batch_first=True, norm_first=True).eval()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attention.queries_keys_values.weight,
            "self_attn.in_proj_bias": block.attention.queries_keys_values.bias,
            "self_attn.out_proj.weight": block.attention.output.weight,
            "self_attn.out_proj.bias": block.attention.output.bias,
            "linear1.weight": block.perceptron[0].weight,
            "linear1.bias": block.perceptron[0].bias,
            "linear2.weight": block.perceptron[2].weight,
            "linear2.bias": block.perceptron[2].bias,
            "norm1.weight": block.before_attention.weight,
            "norm1.bias": block.before_attention.bias,
            "norm2.weight": block.before_perceptron.weight,
            "norm2.bias": block.before_perceptron.bias,
        }
    )
    x = torch.randn(3, 10, 8)
    torch.testing.assert_close(block(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("numbers", [{"patch": 21}, {"stride": 0}, {"stride": 5}])
def test_patches_that_do_not_fit_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=r"a patch is at most the 20 rows looked back on.*use for example model.patch=10"
    ):
        make(**numbers)


def test_other_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="model=patch_transformer forecasts series"):
        PatchTransformer((4,), (), nn.ReLU)
    with pytest.raises(ConfigError, match=r"model.layers=0 must be at least 1"):
        make(layers=0)

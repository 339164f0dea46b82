"""DLinear: the decomposition by hand, one linear map for every column, the mean of the window at the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlrun.errors import ConfigError
from dlrun.models.dlinear import DLinear, moving_average

LENGTH, HORIZON, COLUMNS = 12, 4, 3


def test_the_moving_average_repeats_the_ends() -> None:
    x = torch.randn(2, COLUMNS, LENGTH)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2)), mode="edge")
    expected = np.stack([padded[..., i : i + 5].mean(-1) for i in range(LENGTH)], axis=-1)
    torch.testing.assert_close(moving_average(x, 5), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    assert torch.equal(moving_average(x, 1), x)


def test_the_forecast_by_hand() -> None:
    model, x = DLinear((LENGTH, COLUMNS), (HORIZON, COLUMNS), kernel=5), torch.randn(2, LENGTH, COLUMNS)
    torch.nn.init.normal_(model.seasonal.weight)
    torch.nn.init.normal_(model.trend.weight)
    trend = moving_average(x.transpose(1, 2), 5).transpose(1, 2)
    expected = (
        torch.einsum("hl,bld->bhd", model.seasonal.weight, x - trend)
        + torch.einsum("hl,bld->bhd", model.trend.weight, trend)
        + (model.seasonal.bias + model.trend.bias)[:, None]
    )
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_at_the_start_a_forecast_is_the_window_s_mean() -> None:
    model, x = DLinear((LENGTH, COLUMNS), (HORIZON, COLUMNS)), torch.randn(2, LENGTH, COLUMNS)
    bias = (model.seasonal.bias + model.trend.bias)[:, None]
    torch.testing.assert_close(
        model(x) - bias, x.mean(1, keepdim=True).expand(2, HORIZON, COLUMNS), rtol=1e-5, atol=1e-5
    )


def test_a_column_sees_itself_alone_and_those_that_are_no_targets_are_not_seen() -> None:
    model, x = DLinear((LENGTH, COLUMNS), (HORIZON, 2)), torch.randn(2, LENGTH, COLUMNS)
    before = model(x)
    assert before.shape == (2, HORIZON, 2)
    changed = x.clone()
    changed[..., 1:] += 1
    after = model(changed)
    assert torch.equal(before[..., 0], after[..., 0])
    assert not torch.allclose(before[..., 1], after[..., 1])
    changed = x.clone()
    changed[..., 2] += 1
    assert torch.equal(before, model(changed))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.kernel=4 must be odd"):
        DLinear((LENGTH, 1), (HORIZON, 1), kernel=4)
    with pytest.raises(
        ConfigError, match=r"model=dlinear forecasts series, and one example here has shape 1x8x8; use data=s"
    ):
        DLinear((1, 8, 8), ())

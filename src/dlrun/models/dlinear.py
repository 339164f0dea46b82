"""DLinear: a series is split into its trend and the rest, and each is carried on by one linear layer.

trend = moving average of x; seasonal = x - trend; forecast = W_s seasonal + b_s + W_t trend + b_t, the same weights for
every column.
Source: A. Zeng, M. Chen, L. Zhang, Q. Xu, "Are Transformers Effective for Time Series Forecasting?", AAAI 2023 (arXiv
2205.13504), section 4; the decomposition is that of Autoformer (H. Wu et al., NeurIPS 2021, equation 1), with the
window's ends repeated so that the average has the window's length. Both matrices start at 1/L, each forecast being the
window's mean; the authors' code has these lines for looking at the weights, and starts as ``nn.Linear`` does otherwise.
Differs from their code in: 1. columns that are no targets are not forecast, so they have no part in it; 2. no separate
weights for each column.

Shapes: B batch, L rows looked back on, H rows ahead, F columns of which the first D are targets.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError


class DLinear(nn.Module):
    """Two linear layers from L to H rows: one for the moving average, one for what is left.

    Args:
        in_shape: (L, F) of one window.
        target_shape: (H, D) of what follows.
        kernel: rows of the moving average, an odd number.

    Raises:
        ConfigError: the data are no series, or ``kernel`` is no odd number.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(self, in_shape: tuple[int, ...], target_shape: tuple[int, ...], kernel: int = 25) -> None:
        super().__init__()
        length, horizon, self.columns = series_shape(in_shape, target_shape, "dlinear")
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"model.kernel={kernel} must be odd so that the average has a centre; use for example 25")
        self.kernel = kernel
        self.seasonal = nn.Linear(length, horizon)
        self.trend = nn.Linear(length, horizon)
        nn.init.constant_(self.seasonal.weight, 1 / length)
        nn.init.constant_(self.trend.weight, 1 / length)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, F) -> (B, H, D)."""
        x = x[..., : self.columns].transpose(1, 2)  # (B, D, L)
        trend = moving_average(x, self.kernel)
        ahead: Tensor = self.seasonal(x - trend) + self.trend(trend)  # (B, D, H)
        return ahead.transpose(1, 2)


def moving_average(x: Tensor, kernel: int) -> Tensor:
    """Mean of the ``kernel`` values around each, the first and last repeated beyond the ends: (B, D, L) -> the same."""
    beyond = kernel // 2
    front, back = x[..., :1].expand(*x.shape[:-1], beyond), x[..., -1:].expand(*x.shape[:-1], beyond)
    return F.avg_pool1d(torch.cat([front, x, back], dim=-1), kernel, stride=1)


def series_shape(in_shape: tuple[int, ...], target_shape: tuple[int, ...], family: str) -> tuple[int, int, int]:
    """Rows looked back on L, rows ahead H and target columns D.

    Raises:
        ConfigError: the data are no series to forecast; names what to use.
    """
    if len(in_shape) != 2 or len(target_shape) != 2:
        raise ConfigError(
            f"model={family} forecasts series, and one example here has shape {'x'.join(map(str, in_shape))}; use "
            "data=series data.path=FILE.csv, or model=mlp for other data"
        )
    return in_shape[0], target_shape[0], target_shape[1]

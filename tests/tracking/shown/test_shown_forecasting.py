"""The picture of forecasts: as many panels as windows and targets, drawn where the numbers say, whatever they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlrun.data.facts import Facts
from dlrun.losses import MeanSquaredError
from dlrun.tasks.forecasting import Forecasting
from dlrun.tracking.canvas import BLUE, INK, ORANGE
from dlrun.tracking.shown.forecasting import HEADER, PANEL, drawings

LENGTH, HORIZON = 20, 6


class Answer(nn.Module):
    """A network that always says ``value``."""

    def __init__(self, value: float, columns: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.columns = columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value * torch.ones(len(x), HORIZON * self.columns)


def picture(columns: int, value: float = 0.5, windows: int = 25) -> Any:
    facts = Facts(
        "series", "series", (LENGTH, columns), "forecasting", targets=tuple(f"t{i}" for i in range(columns)),
        target_shape=(HORIZON, columns), target_scales=((100.0, 10.0),) * columns,
    )  # fmt: skip
    look = SimpleNamespace(
        model=Answer(value, columns),
        task=Forecasting(MeanSquaredError(), facts),
        facts=facts,
        device=torch.device("cpu"),
        inputs=torch.randn(windows, LENGTH, columns),
        targets=torch.randn(windows, HORIZON, columns),
    )
    return drawings(look)["pictures/forecasts"]()  # type: ignore[arg-type]


def share(image: Any, colour: tuple[int, int, int]) -> float:
    pixels = np.asarray(image)[HEADER:].astype(int)
    return float((np.abs(pixels - np.array(colour)).max(-1) < 40).mean())


@pytest.mark.parametrize(
    ("columns", "windows", "across", "down"), [(1, 25, 2, 2), (2, 25, 2, 2), (7, 25, 3, 2), (1, 1, 2, 1), (3, 1, 3, 1)]
)
def test_windows_below_one_another_and_targets_side_by_side(columns: int, windows: int, across: int, down: int) -> None:
    assert picture(columns, windows=windows).size == (across * PANEL[0], HEADER + down * PANEL[1])


def test_the_series_and_both_forecasts_are_drawn() -> None:
    image = picture(2)
    assert all(share(image, colour) > 5e-4 for colour in (INK, BLUE, ORANGE))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20, -1e20])
def test_a_network_gone_wild_is_drawn_too(value: float) -> None:
    image = picture(1, value)
    assert share(image, INK) > 5e-4, "the series keeps its scale"

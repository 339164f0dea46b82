"""Forecasts: errors in standardised units, two naive forecasts, the season found, values back in the user's units."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.data.windows import Windows
from dlrun.errors import ConfigError
from dlrun.losses import CrossEntropy, Huber, MeanSquaredError
from dlrun.tasks.forecasting import Forecasting, find_season, repeated, smape

LENGTH, HORIZON = 30, 5
TWO = Facts(
    "series", "series", (LENGTH, 3), "forecasting", targets=("load", "price"), features=("load", "price", "wind"),
    target_shape=(HORIZON, 2), target_scales=((10.0, 2.0), (-1.0, 0.5)),
)  # fmt: skip
ONE = Facts(
    "series", "series", (LENGTH, 1), "forecasting", targets=("load",), features=("load",), target_shape=(HORIZON, 1),
    target_scales=((10.0, 2.0),),
)  # fmt: skip


def make(facts: Facts = TWO, **more: int) -> Forecasting:
    return Forecasting(MeanSquaredError(), facts, **more)


def fit(task: Forecasting, values: Tensor) -> Forecasting:
    task.fit(values, list)
    return task


def season(rows: int, n: int = 400, columns: int = 1, noise: float = 0.1) -> Tensor:
    steps = torch.arange(n, dtype=torch.float32)[:, None]
    wave = torch.sin(2 * math.pi * steps / rows + 1 + torch.arange(columns))
    return wave + noise * torch.randn(n, columns, generator=torch.Generator().manual_seed(0))


def test_the_output_is_a_row_for_each_step_ahead() -> None:
    task = make()
    assert task.out_shape() == (HORIZON, 2)
    assert task.output_layer() == ("5 x 2 units, identity", "5 rows ahead of: load, price")
    assert [part.shape for part in task.example()] == [(2, LENGTH, 3), (2, HORIZON, 2)]
    assert (task.metric_names(), make(ONE).metric_names()) == (("loss", "mse", "mae"), ("loss", "mse", "mae", "smape"))


def test_the_loss_takes_outputs_of_any_shape_and_has_a_gradient() -> None:
    task, batch = make(), (torch.randn(4, LENGTH, 3), torch.randn(4, HORIZON, 2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(LENGTH * 3, HORIZON * 2))
    loss, logs = task.loss(model, batch)
    loss.backward()
    flat = model(batch[0]).detach()
    torch.testing.assert_close(loss.detach(), (flat - batch[1].flatten(1)).square().mean())
    assert torch.equal(logs["loss"], loss.detach())
    assert model[1].weight.grad is not None
    assert torch.equal(task.loss(lambda x: flat.view(4, HORIZON, 2), batch)[0], loss.detach())


def test_errors_over_batches_of_different_size_are_those_of_the_whole_part() -> None:
    task = make()
    inputs, targets = torch.randn(7, LENGTH, 3), torch.randn(7, HORIZON, 2)
    batches = [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])]
    found = task.measure(lambda x: x[:, :HORIZON, 1:].flatten(1), batches, "val")
    wrong = inputs[:, :HORIZON, 1:] - targets
    assert list(found.metrics) == ["loss", "mse", "mae"]
    assert float(found.metrics["loss"]) == pytest.approx(float(wrong.square().mean()), rel=1e-6)
    assert float(found.metrics["mse"]) == pytest.approx(float(wrong.square().mean()), rel=1e-6)
    assert float(found.metrics["mae"]) == pytest.approx(float(wrong.abs().mean()), rel=1e-6)
    last = inputs[:, -1:, :2] - targets  # before fit: the last value
    assert float(found.baseline["mse"]) == pytest.approx(float(last.square().mean()), rel=1e-6)
    assert found.outputs is None, "a part's forecasts are not kept"


def test_percentage_errors_are_in_the_units_of_the_data() -> None:
    task = make(ONE)
    inputs, targets = torch.zeros(1, LENGTH, 1), torch.full((1, HORIZON, 1), 5.0)
    found = task.measure(lambda x: torch.zeros(1, HORIZON), [(inputs, targets)], "val")
    assert float(found.metrics["smape"]) == pytest.approx(200 * 10 / (10 + 20))  # 10 + 2 * 0 against 10 + 2 * 5
    assert smape(torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0])).tolist() == [0, 200]


def test_the_last_season_over_and_over() -> None:
    past = torch.arange(8.0).reshape(1, 8, 1)
    assert repeated(past, 3, 7).flatten().tolist() == [5, 6, 7, 5, 6, 7, 5]
    assert repeated(past, 1, 3).flatten().tolist() == [7, 7, 7]
    assert repeated(past, 8, 2).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("rows", [2, 7, 12, 24])
def test_a_season_is_found_in_noise_and_on_a_slope(rows: int) -> None:
    values = season(rows, columns=2, noise=0.3)
    assert find_season(values, LENGTH) == rows
    assert find_season(values + torch.linspace(0, 20, len(values))[:, None], LENGTH) == rows
    assert find_season(values, rows - 1) == 1, "it does not fit into the rows looked back on"


def test_no_season_is_found_where_there_is_none() -> None:
    noise = torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    assert find_season(noise, LENGTH) == 1
    assert find_season(noise.cumsum(0), LENGTH) == 1, "a random walk"
    assert find_season(torch.ones(400, 1), LENGTH) == 1
    assert find_season(torch.ones(3, 1), LENGTH) == 1


def test_the_baseline_is_the_naive_forecast_that_was_better_in_training() -> None:
    waves = fit(make(ONE), season(12))
    assert (waves.season, waves.naive()) == (12, "last season of 12 rows repeated")
    walk = fit(make(ONE), torch.randn(400, 1, generator=torch.Generator().manual_seed(1)).cumsum(0))
    assert (walk.season, walk.naive()) == (1, "last value repeated")
    part = Windows(season(12, noise=0.0), torch.arange(300), LENGTH, HORIZON)
    found = waves.measure(lambda x: torch.zeros(len(x), HORIZON), [part.gather(torch.arange(300))], "test")
    assert float(found.baseline["mse"]) < 1e-6
    assert float(found.metrics["mse"]) == pytest.approx(0.5, abs=0.01)  # of a sine


def test_the_season_can_be_given() -> None:
    assert fit(make(ONE, season=24), season(12)).season == 24
    assert fit(make(ONE, season=1), season(12)).season == 1
    with pytest.raises(
        ConfigError, match=r"task.season=31 must be auto, or from 1 \(none\) to the 30 rows looked back"
    ):
        make(ONE, season=31)


def test_only_the_targets_make_the_baseline() -> None:
    """The third column has a season of 7, the two targets one of 12."""
    values = torch.cat([season(12, columns=2), season(7)], dim=1)
    assert fit(make(), values).season == 12


def test_forecasts_are_in_the_data_s_own_units() -> None:
    task = make()
    outputs = torch.arange(20.0).reshape(2, 10)
    rows = task.rows(outputs)
    assert [len(window) for window in rows] == [HORIZON, HORIZON]
    assert rows[0][:2] == [{"step": 1, "load": 10.0, "price": -0.5}, {"step": 2, "load": 14.0, "price": 0.5}]
    assert rows[1][-1] == {"step": 5, "load": 46.0, "price": 8.5}


def test_the_state_makes_a_round_trip_through_json() -> None:
    task, other = fit(make(ONE), season(12)), make(ONE)
    other.restore(json.loads(json.dumps(task.state())))
    inputs = torch.randn(3, LENGTH, 1)
    assert torch.equal(task.baseline(inputs), other.baseline(inputs))


def test_wrong_pairings_are_refused() -> None:
    assert Forecasting(Huber(), TWO).monitor.metric == "mse"
    with pytest.raises(ConfigError, match=r"CrossEntropy is for .* use loss=mse"):
        Forecasting(CrossEntropy(), TWO)
    with pytest.raises(ConfigError, match="task=forecasting needs a series, and 'iris' is none; use data=series"):
        Forecasting(MeanSquaredError(), Facts("iris", "table", (4,), "regression", targets=("y",)))


def test_the_last_value_is_the_literature_s_on_etth1(shared_data) -> None:  # type: ignore[no-untyped-def]
    """Zeng et al. 2023, table 2, "Repeat": MSE 1.295, MAE 0.713 at 96 hours.

    Here on every fifth window, which meets every hour of the day and moves a mean by less than a hundredth.
    """
    from dlrun.data.series import Series

    path = str(shared_data / "ett" / "ETTh1.csv")
    splits = Series(path=path, look_back=336, horizon=96, split=[8640, 2880, 2880]).load()
    task = make(splits.facts)
    assert isinstance(splits.test, Windows)
    rows = torch.arange(0, len(splits.test), 5).split(512)
    found = task.measure(lambda x: torch.zeros(len(x), 96, 7), [splits.test.gather(r) for r in rows], "test")
    assert float(found.baseline["mse"]) == pytest.approx(1.295, abs=0.01)
    assert float(found.baseline["mae"]) == pytest.approx(0.713, abs=0.01)
    assert isinstance(splits.train, Windows)
    assert fit(task, splits.train.targets).season == 24

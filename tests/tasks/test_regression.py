"""Standardisation and its way back, metrics in the data's own units, the mean as baseline."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import CrossEntropy, Huber, MeanSquaredError
from dlrun.tasks.regression import Regression

ONE = Facts("one", "table", (3,), "regression", targets=("price",))
TWO = Facts("two", "table", (3,), "regression", targets=("price", "size"))
TARGETS = torch.tensor([[100.0, 1.0], [300.0, 1.0], [500.0, 1.0], [700.0, 1.0]])  # the second never changes


def fitted(**more: bool) -> Regression:
    task = Regression(MeanSquaredError(), TWO, **more)
    task.fit(TARGETS, list)
    return task


def test_one_unit_for_each_target() -> None:
    assert Regression(MeanSquaredError(), ONE).out_shape() == (1,)
    task = Regression(MeanSquaredError(), TWO)
    assert task.out_shape() == (2,)
    assert task.output_layer() == ("2 units, identity", "a number for each of: price, size")
    assert Regression(MeanSquaredError(), ONE).output_layer()[0] == "1 unit, identity"


def test_the_network_learns_standardised_targets() -> None:
    task = fitted()
    deviation = (100**2 + 300**2) ** 0.5 / 2**0.5  # of 100, 300, 500, 700 around 400
    expected = ((TARGETS[:, 0] - 400) / deviation).square().mean() / 2  # the constant column adds nothing
    assert float(task.outputs_loss(torch.zeros(4, 2), TARGETS)) == pytest.approx(float(expected))
    outputs = ((TARGETS - task.mean) / task.deviation).float()
    assert float(task.outputs_loss(outputs, TARGETS)) == 0.0


def test_predictions_are_in_the_data_s_own_units() -> None:
    task = fitted()
    outputs = (TARGETS - task.mean) / task.deviation
    torch.testing.assert_close(task.predict(outputs)["values"], TARGETS.double())
    assert task.predict(torch.zeros(1, 2))["values"].tolist() == [[400.0, 1.0]]
    assert task.predict(torch.zeros(1, 2).bfloat16())["values"].dtype == torch.float64


def test_targets_far_from_zero_are_not_rounded() -> None:
    """Seconds since 1970 half a second apart: float32 would hold them to 128 seconds."""
    targets = 1_700_000_000 + 0.5 * torch.arange(200, dtype=torch.float64)[:, None]
    task = Regression(MeanSquaredError(), Facts("t", "table", (1,), "regression", targets=("t",)))
    task.fit(targets, list)
    outputs = ((targets - task.mean) / task.deviation).float()
    assert float(task.metrics(outputs, targets)["r2"]) > 1 - 1e-12
    assert float(task.metrics(outputs, targets)["mae"]) < 1e-5
    assert float(task.metrics(outputs.float().half().float(), targets)["mae"]) > 1e-4, "and a worse network is worse"


def test_targets_can_be_left_as_they_are() -> None:
    task = fitted(standardize=False)
    outputs = torch.randn(4, 2)
    assert torch.equal(task.predict(outputs)["values"], outputs)
    torch.testing.assert_close(task.outputs_loss(outputs, TARGETS), (outputs - TARGETS).square().mean())
    assert float(task.baseline(TARGETS)["mse"]) == pytest.approx(25_000.0), "the baseline is still the mean"


def test_metrics_by_hand() -> None:
    task = Regression(MeanSquaredError(), ONE, standardize=False)
    found = task.metrics(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[2.0], [2.0], [5.0]]))
    assert float(found["mse"]) == pytest.approx(2 / 3)
    assert float(found["mae"]) == pytest.approx(2 / 3)
    assert float(found["r2"]) == pytest.approx(1 - 2 / 6)


def test_metrics_do_not_depend_on_the_scale_the_network_learns_in() -> None:
    task = fitted()
    outputs = torch.randn(4, 2)
    values = task.predict(outputs)["values"]
    assert float(task.metrics(outputs, TARGETS)["mse"]) == pytest.approx(float((values - TARGETS).square().mean()))


def test_the_baseline_is_the_training_part_s_mean() -> None:
    task = fitted()
    found = task.baseline(torch.tensor([[300.0, 1.0], [600.0, 1.0]]))
    assert float(found["mse"]) == pytest.approx((100**2 + 200**2) / 4)
    assert float(found["mae"]) == pytest.approx((100 + 200) / 4)
    assert float(fitted().baseline(TARGETS)["r2"]) == pytest.approx(0.5), "0 for the price, 1 for the constant"


def test_the_loss_has_a_gradient_and_logs_without_one() -> None:
    task, model = fitted(), nn.Linear(3, 2)
    loss, logs = task.loss(model, (torch.randn(4, 3), TARGETS))
    loss.backward()
    assert model.weight.grad is not None
    assert torch.equal(logs["loss"], loss.detach())
    assert not logs["loss"].requires_grad


def test_another_loss_is_taken_and_a_wrong_one_refused() -> None:
    assert torch.isfinite(Regression(Huber(), TWO).outputs_loss(torch.zeros(4, 2), TARGETS))
    with pytest.raises(ConfigError, match="but 'one' is regression: use loss=mse"):
        Regression(CrossEntropy(), ONE)
    classes = Facts("kinds", "table", (3,), "classification", classes=("a", "b", "c"))
    with pytest.raises(ConfigError, match="'kinds' has 3 classes: use task=classification"):
        Regression(MeanSquaredError(), classes)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_state_makes_a_round_trip_through_json(standardize: bool) -> None:
    targets = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) * 1e3 + 0.1
    task, other = (Regression(MeanSquaredError(), TWO, standardize) for _ in range(2))
    task.fit(targets, list)
    other.restore(json.loads(json.dumps(task.state())))
    outputs = torch.randn(50, 2)
    assert torch.equal(task.predict(outputs)["values"], other.predict(outputs)["values"])
    assert torch.equal(task.outputs_loss(outputs, targets), other.outputs_loss(outputs, targets))
    assert task.baseline(targets) == other.baseline(targets)


def test_large_units_do_not_lose_the_deviation() -> None:
    task = Regression(MeanSquaredError(), ONE)
    task.fit(1e7 + torch.arange(10.0)[:, None], list)
    assert float(task.deviation) == pytest.approx(8.25**0.5, rel=1e-5)

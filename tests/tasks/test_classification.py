"""Output layer, loss, reading and metrics of classification, each against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import BinaryCrossEntropy, CrossEntropy, Focal, Hinge, MeanSquaredError
from dlrun.tasks.classification import Classification

TWO = Facts("two", "table", (3,), "classification", classes=("no", "yes"))
FIVE = Facts("five", "table", (3,), "classification", classes=tuple("abcde"))
NUMBERS = Facts("numbers", "table", (3,), "regression", targets=("y",))


@pytest.mark.parametrize(
    ("loss", "outputs", "facts", "units"),
    [
        (BinaryCrossEntropy(), "auto", TWO, 1),
        (Hinge(), "auto", TWO, 1),
        (Focal(), "auto", TWO, 1),
        (CrossEntropy(), "auto", TWO, 2),
        (MeanSquaredError(), "auto", TWO, 2),
        (BinaryCrossEntropy(), 1, TWO, 1),
        (BinaryCrossEntropy(), 2, TWO, 2),
        (CrossEntropy(), 2, TWO, 2),
        (CrossEntropy(), "auto", FIVE, 5),
        (BinaryCrossEntropy(), "auto", FIVE, 5),
        (Hinge(), "auto", FIVE, 5),
    ],
)
def test_the_output_layer(loss: nn.Module, outputs: int | str, facts: Facts, units: int) -> None:
    task = Classification(loss, facts, outputs)  # type: ignore[arg-type]
    assert task.out_shape() == (units,)
    words, reason = task.output_layer()
    assert words.startswith(f"{units} unit")
    assert reason
    assert torch.isfinite(task.outputs_loss(torch.randn(4, units), torch.tensor([0, 1, 1, 0])))


@pytest.mark.parametrize(
    ("loss", "outputs", "facts", "words"),
    [
        (CrossEntropy(), 1, TWO, "loss=bce"),
        (CrossEntropy(), 2, FIVE, "'five' has 5"),
        (BinaryCrossEntropy(), 1, FIVE, "task.outputs=1"),
        (CrossEntropy(), 3, TWO, "task.outputs=3"),
        (CrossEntropy(), "many", FIVE, "task.outputs=many"),
        (MeanSquaredError(), "auto", NUMBERS, "'numbers' has numbers to predict"),
        (CrossEntropy(), "auto", NUMBERS, "numbers"),
    ],
)
def test_a_wrong_pairing_is_refused(loss: nn.Module, outputs: int | str, facts: Facts, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Classification(loss, facts, outputs)  # type: ignore[arg-type]


def test_one_unit_is_a_sigmoid_for_the_second_class() -> None:
    task = Classification(BinaryCrossEntropy(), TWO)
    found = task.predict(torch.tensor([[-1.0], [0.5], [200.0]]))
    assert found["labels"].tolist() == [0, 1, 1]
    expected = torch.tensor([[1 - 1 / (1 + math.e), 1 / (1 + math.e)], [1 / (1 + math.exp(0.5)), 0.6224593], [0, 1]])
    torch.testing.assert_close(found["probabilities"], expected)


@pytest.mark.parametrize("units", [2, 5])
def test_probabilities_sum_to_one_and_the_highest_wins(units: int) -> None:
    task = Classification(CrossEntropy(), TWO if units == 2 else FIVE)
    outputs = torch.randn(50, units, generator=torch.Generator().manual_seed(1)) * 30
    found = task.predict(outputs)
    torch.testing.assert_close(found["probabilities"].sum(1), torch.ones(50))
    torch.testing.assert_close(found["probabilities"], outputs.softmax(1))
    assert torch.equal(found["labels"], outputs.argmax(1))


def test_half_precision_outputs_are_read_in_full() -> None:
    found = Classification(CrossEntropy(), FIVE).predict(torch.randn(3, 5).bfloat16())
    assert found["probabilities"].dtype == torch.float32


def test_metrics_by_hand() -> None:
    task = Classification(BinaryCrossEntropy(), TWO)
    found = task.metrics(torch.tensor([[2.0], [-1.0], [1.0], [-3.0], [0.5]]), torch.tensor([1, 1, 0, 0, 1]))
    assert float(found["accuracy"]) == pytest.approx(0.6)
    assert float(found["f1"]) == pytest.approx((2 / 3 + 1 / 2) / 2)  # yes: 2 TP, 1 FP, 1 FN; no: 1 TP, 1 FP, 1 FN
    assert float(found["auroc"]) == pytest.approx(4 / 6)  # pairs (yes, no) in the right order
    assert set(Classification(CrossEntropy(), FIVE).metrics(torch.eye(5), torch.arange(5))) == {"accuracy", "f1"}


def test_the_baseline_answers_the_training_part_s_majority() -> None:
    task = Classification(CrossEntropy(), FIVE)
    task.fit(torch.tensor([3, 3, 3, 0, 1]), list)
    assert {k: float(v) for k, v in task.baseline(torch.tensor([3, 0, 0, 0])).items()} == {"accuracy": 0.25}


def test_the_loss_is_the_loss_function_s_and_has_a_gradient() -> None:
    task, model = Classification(CrossEntropy(), FIVE), nn.Linear(3, 5)
    x, y = torch.randn(4, 3), torch.tensor([0, 4, 2, 2])
    loss, logs = task.loss(model, (x, y))
    expected = -model(x).log_softmax(1)[torch.arange(4), y].mean()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(logs["loss"], loss.detach())
    assert not logs["loss"].requires_grad
    loss.backward()
    assert model.weight.grad is not None


def test_balanced_weights_reach_the_loss() -> None:
    task = Classification(CrossEntropy(class_weights="balanced"), TWO)
    outputs, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    plain = float(task.outputs_loss(outputs, targets))
    task.fit(torch.tensor([0, 0, 0, 1]), list)  # weights 4 / (2 * 3) and 4 / (2 * 1)
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert plain == pytest.approx((right + wrong) / 2)
    assert float(task.outputs_loss(outputs, targets)) == pytest.approx((2 / 3 * right + 2 * wrong) / (2 / 3 + 2))


def test_a_class_that_is_missing_from_the_training_part_is_counted() -> None:
    task = Classification(CrossEntropy(), FIVE)
    task.fit(torch.tensor([0, 1]), list)
    assert task.counts.tolist() == [1, 1, 0, 0, 0]


def test_the_state_makes_a_round_trip_through_json() -> None:
    task = Classification(CrossEntropy(class_weights="balanced"), TWO)
    task.fit(torch.tensor([0, 0, 1]), list)
    other = Classification(CrossEntropy(class_weights="balanced"), TWO)
    other.restore(json.loads(json.dumps(task.state())))
    outputs, targets = torch.randn(6, 2), torch.tensor([0, 1, 1, 1, 0, 0])
    assert torch.equal(task.outputs_loss(outputs, targets), other.outputs_loss(outputs, targets))
    assert task.baseline(targets) == other.baseline(targets)

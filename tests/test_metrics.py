from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sk

from dlrun import metrics

SEEDS = range(5)


def draw(seed: int, n: int = 60, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, classes, generator=source).mul(3).round() / 3  # rounded, so that there are ties
    return outputs, torch.randint(classes, (n,), generator=source)


@pytest.mark.parametrize("seed", SEEDS)
def test_classification_metrics_are_scikit_learns(seed: int) -> None:
    outputs, targets = draw(seed)
    predicted = outputs.argmax(dim=1)
    assert metrics.accuracy(predicted, targets).item() == pytest.approx(sk.accuracy_score(targets, predicted))
    matrix = metrics.confusion_matrix(predicted, targets, 4)
    assert matrix.tolist() == sk.confusion_matrix(targets, predicted, labels=range(4)).tolist()
    assert metrics.macro_f1(predicted, targets, 4).item() == pytest.approx(
        sk.f1_score(targets, predicted, average="macro"), abs=1e-6
    )


def test_confusion_matrix_has_true_rows_and_predicted_columns() -> None:
    matrix = metrics.confusion_matrix(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 2]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    predicted, targets = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    assert metrics.macro_f1(predicted, targets, 5).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_auroc_is_scikit_learns_with_ties(seed: int) -> None:
    outputs, targets = draw(seed)
    binary = (targets > 1).long()
    assert metrics.auroc(outputs[:, 0], binary).item() == pytest.approx(sk.roc_auc_score(binary, outputs[:, 0]))
    shares = outputs.softmax(1)
    expected = sk.roc_auc_score(targets, shares.double(), multi_class="ovr")
    assert metrics.auroc(shares, targets).item() == pytest.approx(expected, abs=1e-6)


def test_auroc_of_a_perfect_a_useless_and_a_one_sided_set() -> None:
    assert metrics.auroc(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0, 0, 1])).item() == 1.0
    assert metrics.auroc(torch.zeros(4), torch.tensor([0, 1, 0, 1])).item() == 0.5
    assert math.isnan(metrics.auroc(torch.tensor([0.1, 0.2]), torch.tensor([1, 1])).item())


@pytest.mark.parametrize("columns", [1, 3])
def test_regression_metrics_are_scikit_learns(columns: int) -> None:
    source = torch.Generator().manual_seed(columns)
    outputs, targets = torch.randn(2, 30, columns, generator=source)
    targets = targets + outputs
    assert metrics.r2(outputs, targets).item() == pytest.approx(sk.r2_score(targets, outputs), abs=1e-6)
    assert metrics.mse(outputs, targets).item() == pytest.approx(sk.mean_squared_error(targets, outputs), abs=1e-6)
    assert metrics.mae(outputs, targets).item() == pytest.approx(sk.mean_absolute_error(targets, outputs), abs=1e-6)


@pytest.mark.parametrize("value", [2.0, 3.0])
def test_r2_of_targets_that_do_not_vary_is_scikit_learns(value: float) -> None:
    targets, outputs = torch.full((4, 1), 2.0), torch.full((4, 1), value)
    assert metrics.r2(outputs, targets).item() == sk.r2_score(targets, outputs)


def test_r2_of_the_mean_is_zero_even_for_large_numbers() -> None:
    targets = torch.tensor([[200001.0], [200003.0], [200005.0]])
    assert metrics.r2(targets.mean().expand(3, 1), targets).item() == pytest.approx(0.0, abs=1e-6)

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from dlrun.tasks.frechet import FrechetYardstick, Moments, frechet_distance, moments, plain_values


def normal(mean: list[float], covariance: list[list[float]]) -> Moments:
    return Moments(torch.tensor(mean).double(), torch.tensor(covariance).double())


def spread(size: int, seed: int) -> Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T


def test_one_dimension_in_closed_form() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    found = frechet_distance(normal([1.0], [[4.0]]), normal([-2.0], [[9.0]]))
    assert found.item() == pytest.approx(9 + 1)


def test_covariances_that_commute_in_closed_form() -> None:
    found = frechet_distance(normal([0.0, 0.0], [[1.0, 0.0], [0.0, 16.0]]), normal([3.0, 4.0], [[4.0, 0], [0, 0.0]]))
    assert found.item() == pytest.approx(25 + 1 + 16)


def test_a_shift_alone_and_no_difference() -> None:
    covariance = spread(6, 0)
    here, there = (Moments(torch.full((6,), m).double(), covariance) for m in (0.0, 2.0))
    assert frechet_distance(here, there).item() == pytest.approx(24)
    assert frechet_distance(here, here).item() == pytest.approx(0, abs=1e-9)


def test_any_covariances_against_the_matrix_root_of_scipy() -> None:
    a, b = Moments(torch.zeros(7).double(), spread(7, 1)), Moments(torch.ones(7).double(), spread(7, 2))
    root = sqrtm((a.covariance @ b.covariance).numpy())
    expected = 7 + np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * root.real)
    assert frechet_distance(a, b).item() == pytest.approx(expected)
    assert frechet_distance(b, a).item() == pytest.approx(expected)


def test_fewer_examples_than_features_are_no_trouble() -> None:
    few = moments(torch.randn(3, 10))
    assert frechet_distance(few, few).item() == pytest.approx(0, abs=1e-6)
    assert moments(torch.ones(1, 2)).covariance.tolist() == [[0, 0], [0, 0]]


def test_moments_are_numpys() -> None:
    values = torch.randn(50, 4)
    found = moments(values)
    torch.testing.assert_close(found.covariance, torch.as_tensor(np.cov(values.double().numpy().T)))
    torch.testing.assert_close(found.mean, values.double().mean(0))


def test_plain_values_are_at_most_16_by_16_places() -> None:
    assert plain_values(torch.zeros(2, 5)).shape == (2, 5)
    assert plain_values(torch.zeros(2, 3, 8, 20)).shape == (2, 3 * 8 * 16)
    halves = torch.cat([torch.zeros(1, 1, 32, 16), torch.ones(1, 1, 32, 16)], dim=3)
    assert plain_values(halves).view(16, 16).sum(0).tolist() == [0] * 8 + [16] * 8


def test_a_yardstick_compares_each_set_with_the_part() -> None:
    """Of two values the second is doubled by the features, so a shift of 1 in it counts 4."""
    part = torch.randn(400, 2)
    yardstick = FrechetYardstick(lambda x: x * torch.tensor([1.0, 2.0]))
    batches = [(part[:300], torch.zeros(300)), (part[300:], torch.zeros(100))]
    same, shifted = yardstick.judge(batches, part, part + torch.tensor([0.0, 1.0]))
    assert same["frechet"].item() == pytest.approx(0, abs=1e-9)
    assert shifted["frechet"].item() == pytest.approx(4, rel=1e-5)


def test_a_missing_classifier_is_not_replaced_in_silence() -> None:
    with pytest.raises(AssertionError, match="feature_classifier"):
        FrechetYardstick(None).judge([(torch.zeros(2, 2), torch.zeros(2))], torch.zeros(2, 2))

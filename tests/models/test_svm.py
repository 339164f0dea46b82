"""Support vector machines: the features' inner products are the kernel, and what is learnt from the data is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dlrun.errors import ConfigError
from dlrun.models.svm import Batches, FourierFeatures, GaussianSVM, LinearSVM, NystromFeatures, gaussian


def batches(points: Tensor, size: int = 7) -> Batches:
    return lambda: [(part, torch.zeros(len(part))) for part in points.split(size)]


def exact(a: Tensor, b: Tensor, gamma: float) -> Tensor:
    from sklearn.metrics.pairwise import rbf_kernel

    return torch.from_numpy(np.asarray(rbf_kernel(a.double().numpy(), b.double().numpy(), gamma)))


def mapped(features: NystromFeatures | FourierFeatures, points: Tensor) -> Tensor:
    """phi(x): the scores of the unit vectors."""
    components = features.whiten if isinstance(features, NystromFeatures) else features.phases
    return features(points, torch.eye(len(components)))


def test_nystrom_features_give_the_kernel_on_the_landmarks() -> None:
    """Exact but for eigenvalues below 1e-7 of the largest and for float32: 1e-4 of kernels up to 1."""
    points = torch.randn(60, 5)
    features = NystromFeatures(5, 60, 0.1)
    features.prepare(batches(points))
    phi = mapped(features, points)
    torch.testing.assert_close((phi @ phi.T).double(), exact(points, points, 0.1), rtol=0, atol=1e-4)
    assert sorted(features.landmarks[:, 0].tolist()) == sorted(points[:, 0].tolist())


def test_more_landmarks_are_nearer_to_the_kernel_between_other_points() -> None:
    points, others = torch.rand(300, 4), torch.rand(50, 4)
    errors = []
    for components in (5, 30, 150):
        features = NystromFeatures(4, components, 0.5)
        features.prepare(batches(points))
        phi = mapped(features, others)
        errors.append(float(((phi @ phi.T).double() - exact(others, others, 0.5)).abs().max()))
    assert errors[0] > 10 * errors[1] > 10 * errors[2]
    assert errors[2] < 1e-3


def test_fewer_examples_than_landmarks_serve_several_times() -> None:
    points = torch.randn(6, 3)
    features = NystromFeatures(3, 20, 0.3)
    features.prepare(batches(points))
    assert features.whiten.isfinite().all()
    phi = mapped(features, points)
    torch.testing.assert_close((phi @ phi.T).double(), exact(points, points, 0.3), rtol=0, atol=1e-4)


def test_fourier_features_give_the_kernel_up_to_one_over_root_of_their_number() -> None:
    """An entry is a mean of M terms of variance at most 1: within 5 deviations of 1 / sqrt(M)."""
    points = torch.randn(30, 5)
    components = 2_000
    phi = mapped(FourierFeatures(5, components, 0.1), points)
    torch.testing.assert_close((phi @ phi.T).double(), exact(points, points, 0.1), rtol=0, atol=5 / components**0.5)


def test_the_kernel_matrix_is_scikit_learn_s() -> None:
    points = torch.randn(20, 4).double()
    found = gaussian(points, torch.tensor(0.2))
    torch.testing.assert_close(found, exact(points, points, 0.2), rtol=1e-7, atol=1e-7)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("kind", ["nystrom", "fourier"])
def test_gamma_from_the_data_is_scikit_learn_s_scale(kind: str) -> None:
    points = 3 * torch.randn(40, 2, 3) + 5
    model = GaussianSVM((2, 3), 1, features=kind, components=10)
    assert float(model.features.gamma) == pytest.approx(1 / 6)
    model.prepare(batches(points))
    assert float(model.features.gamma) == pytest.approx(1 / (6 * float(points.double().var(correction=0))), rel=1e-5)
    fixed = GaussianSVM((2, 3), 1, features=kind, components=10, gamma=0.25)
    fixed.prepare(batches(points))
    assert float(fixed.features.gamma) == 0.25


def test_constant_inputs_leave_gamma_at_one_over_their_number() -> None:
    model = GaussianSVM((4,), 1, components=3)
    model.prepare(batches(torch.full((5, 4), 2.0)))
    assert float(model.features.gamma) == pytest.approx(0.25)
    assert model(torch.full((2, 4), 2.0)).isfinite().all()


def test_scores_are_the_weights_times_the_features_plus_the_bias() -> None:
    points = torch.randn(30, 4)
    model = GaussianSVM((4,), 2, components=12, gamma=0.2)
    model.prepare(batches(points))
    with torch.no_grad():
        model.weight.normal_()
        model.bias.normal_()  # type: ignore[union-attr]
    w = model.weight * 12**0.5
    torch.testing.assert_close(model(points), mapped(model.features, points) @ w.T + model.bias)
    torch.testing.assert_close(model.squared_norm(), w.square().sum())


def test_the_landmarks_are_drawn_by_torch_s_generator() -> None:
    points = torch.randn(50, 3)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        features = NystromFeatures(3, 5, 0.3)
        features.prepare(batches(points))
        drawn.append(features.landmarks)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_linear_machine_is_one_layer() -> None:
    model = LinearSVM((2, 2), 3)
    x = torch.randn(5, 2, 2)
    torch.testing.assert_close(model(x), x.flatten(1) @ model.output.weight.T + model.output.bias)
    torch.testing.assert_close(model.squared_norm(), model.output.weight.square().sum())
    assert LinearSVM((4,), 1, bias=False).output.bias is None
    assert GaussianSVM((4,), 1, components=3, bias=False)(torch.zeros(2, 4)).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": "nistrom"}, "did you mean 'nystrom'"),
        ({"components": 0}, "model.components=0"),
        ({"gamma": 0}, "model.gamma=0"),
        ({"gamma": "scale"}, "model.gamma=scale"),
    ],
)
def test_numbers_out_of_range_are_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GaussianSVM((4,), 1, **changed)  # type: ignore[arg-type]

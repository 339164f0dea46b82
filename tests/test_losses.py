from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun import losses
from dlrun.errors import ConfigError

B, C = 7, 3
EVERY = {
    "cross_entropy": losses.CrossEntropy(),
    "bce": losses.BinaryCrossEntropy(),
    "mse": losses.MeanSquaredError(),
    "mae": losses.MeanAbsoluteError(),
    "huber": losses.Huber(),
    "hinge": losses.Hinge(),
    "squared_hinge": losses.Hinge(power=2),
    "focal": losses.Focal(),
}


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(B, C, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def classes() -> Tensor:
    return torch.tensor([0, 1, 2, 2, 1, 0, 2])


def signs(targets: Tensor) -> Tensor:
    return F.one_hot(targets, C) * 2.0 - 1


def test_what_each_loss_says_of_itself() -> None:
    says = {name: (sorted(loss.tasks), loss.binary_units) for name, loss in EVERY.items()}
    one = ["classification"]
    pixels = ["classification", "denoising", "reconstruction"]
    numbers = sorted([*pixels, "regression", "forecasting", "super_resolution"])
    assert says == {
        "cross_entropy": ([*one, "language_modelling"], 2),
        "bce": ([*pixels, "variational"], 1),
        "mse": ([*numbers, "variational"], 2),
        "mae": (numbers, 2),
        "huber": (numbers, 2),
        "hinge": (one, 1),
        "squared_hinge": (one, 1),
        "focal": (one, 1),
    }


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_is_a_scalar_that_falls_along_its_gradient(name: str, scores: Tensor, classes: Tensor) -> None:
    loss = EVERY[name]
    outputs = scores.clone().requires_grad_()
    value = loss(outputs, classes)
    value.backward()
    assert value.shape == ()
    assert outputs.grad is not None
    assert loss(scores - 0.1 * outputs.grad, classes) < value


@pytest.mark.parametrize("name", EVERY)
def test_no_loss_reads_the_data_on_its_way(name: str) -> None:
    with torch.device("meta"):
        assert EVERY[name](torch.zeros(B, C), torch.zeros(B, dtype=torch.long)).shape == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_is_torchs(
    scores: Tensor, classes: Tensor, smoothing: float, weights: list[float] | None
) -> None:
    expected = F.cross_entropy(
        scores, classes, weight=None if weights is None else torch.tensor(weights), label_smoothing=smoothing
    )
    torch.testing.assert_close(losses.CrossEntropy(smoothing, weights)(scores, classes), expected)


def test_cross_entropy_of_an_untrained_network_is_log_of_the_classes() -> None:
    assert losses.CrossEntropy()(torch.zeros(5, 10), torch.arange(5)).item() == pytest.approx(2.302585)


def test_bce_is_torchs_for_one_unit_and_for_many(scores: Tensor, classes: Tensor) -> None:
    binary = (classes > 0).long()
    expected = F.binary_cross_entropy_with_logits(scores[:, 0], binary.float())
    torch.testing.assert_close(losses.BinaryCrossEntropy()(scores[:, :1], binary), expected)
    expected = F.binary_cross_entropy_with_logits(scores, F.one_hot(classes, C).float())
    torch.testing.assert_close(losses.BinaryCrossEntropy()(scores, classes), expected)


def test_bce_with_one_unit_is_cross_entropy_with_two() -> None:
    margin, targets = torch.tensor([[1.5], [-0.3]]), torch.tensor([1, 1])
    two = torch.cat([torch.zeros(2, 1), margin], 1)
    torch.testing.assert_close(losses.BinaryCrossEntropy()(margin, targets), losses.CrossEntropy()(two, targets))


def test_bce_label_smoothing_moves_targets_towards_a_half() -> None:
    outputs = torch.tensor([[0.7], [-1.0]])
    expected = F.binary_cross_entropy_with_logits(outputs, torch.tensor([[0.95], [0.05]]))
    torch.testing.assert_close(losses.BinaryCrossEntropy(label_smoothing=0.1)(outputs, torch.tensor([1, 0])), expected)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (losses.MeanSquaredError(), F.mse_loss),
        (losses.MeanAbsoluteError(), F.l1_loss),
        (losses.Huber(delta=0.5), lambda o, t: F.huber_loss(o, t, delta=0.5)),
    ],
)
def test_losses_between_numbers_are_torchs(loss: nn.Module, reference: object, scores: Tensor, classes: Tensor) -> None:
    assert callable(reference)
    numbers = torch.linspace(-1, 1, B * C).view(B, C)
    torch.testing.assert_close(loss(scores, numbers), reference(scores, numbers))
    torch.testing.assert_close(loss(scores, classes), reference(scores, F.one_hot(classes, C).float()))
    zero_one = (classes > 0).long()
    torch.testing.assert_close(loss(scores[:, :1], zero_one), reference(scores[:, :1], zero_one[:, None].float()))


PICTURES = torch.rand(B, 1, 4, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mse", F.mse_loss),
        ("mae", F.l1_loss),
        ("huber", F.huber_loss),
        ("bce", F.binary_cross_entropy_with_logits),
    ],
)
def test_pictures_are_compared_pixel_by_pixel(name: str, reference: object) -> None:
    assert callable(reference)
    outputs = torch.randn(B, 1, 4, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(EVERY[name](outputs, PICTURES), reference(outputs, PICTURES))


def test_bce_of_pixels_can_be_smoothed_but_not_weighted_by_class() -> None:
    outputs = torch.zeros(B, 1, 4, 5)
    smooth = losses.BinaryCrossEntropy(label_smoothing=0.5)(outputs, PICTURES)
    expected = F.binary_cross_entropy_with_logits(outputs, PICTURES / 2 + 0.25)
    torch.testing.assert_close(smooth, expected)
    with pytest.raises(ConfigError, match=r"use loss\.class_weights=null"):
        losses.BinaryCrossEntropy(class_weights=[1.0, 2.0])(outputs, PICTURES)


def test_cross_entropy_of_tokens_in_a_row() -> None:
    outputs, tokens = torch.randn(24, 11), torch.arange(24) % 11
    torch.testing.assert_close(losses.CrossEntropy()(outputs, tokens), F.cross_entropy(outputs, tokens))


@pytest.mark.parametrize(("power", "expected"), [(1, (0.5 + 0 + 2.0) / 3), (2, (0.25 + 0 + 4.0) / 3)])
def test_hinge_by_hand(power: int, expected: float) -> None:
    outputs, targets = torch.tensor([[0.5], [-3.0], [1.0]]), torch.tensor([1, 0, 0])
    assert losses.Hinge(power)(outputs, targets).item() == pytest.approx(expected)


def test_hinge_with_many_units_is_one_against_the_rest(scores: Tensor, classes: Tensor) -> None:
    expected = (1 - signs(classes) * scores).clamp(min=0).mean()
    torch.testing.assert_close(losses.Hinge()(scores, classes), expected)


def test_focal_by_hand_and_at_gamma_zero(scores: Tensor, classes: Tensor) -> None:
    p = scores.softmax(1)[torch.arange(B), classes]
    torch.testing.assert_close(losses.Focal(gamma=1.5)(scores, classes), ((1 - p) ** 1.5 * -p.log()).mean())
    torch.testing.assert_close(losses.Focal(gamma=0.0)(scores, classes), F.cross_entropy(scores, classes))
    binary = (classes > 0).long()
    one_unit = scores[:, :1]
    torch.testing.assert_close(losses.Focal(gamma=0.0)(one_unit, binary), losses.BinaryCrossEntropy()(one_unit, binary))
    p = torch.where(binary > 0, one_unit[:, 0].sigmoid(), 1 - one_unit[:, 0].sigmoid())
    torch.testing.assert_close(losses.Focal()(one_unit, binary), ((1 - p) ** 2 * -p.log()).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_when_the_answer_is_certain(gamma: float) -> None:
    outputs = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    losses.Focal(gamma)(outputs, torch.tensor([0, 0])).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_large_outputs_stay_finite(name: str) -> None:
    outputs = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    value = EVERY[name](outputs, torch.tensor([1, 1]))
    value.backward()
    assert value.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


WEIGHTED = [losses.CrossEntropy, losses.BinaryCrossEntropy, losses.Hinge, losses.Focal]


@pytest.mark.parametrize("kind", WEIGHTED)
def test_class_weights_count_an_example_as_often_as_its_weight(kind: type, scores: Tensor, classes: Tensor) -> None:
    weighted = kind(class_weights=[1.0, 2.0, 3.0])(scores, classes)
    again = torch.cat([torch.arange(B), torch.where(classes >= 1)[0], torch.where(classes >= 2)[0]])
    torch.testing.assert_close(weighted, kind()(scores[again], classes[again]))


@pytest.mark.parametrize("kind", WEIGHTED)
def test_balanced_weights_are_scikit_learns(kind: type, scores: Tensor, classes: Tensor) -> None:
    loss = kind(class_weights="balanced")
    torch.testing.assert_close(loss(scores, classes), kind()(scores, classes))  # before the counts are known
    loss.fit(classes.bincount())
    labels = classes.numpy()
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    torch.testing.assert_close(loss.weights.values, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(loss(scores, classes), kind(class_weights=expected.tolist())(scores, classes))


def test_a_class_without_examples_gets_a_finite_weight() -> None:
    loss = losses.CrossEntropy(class_weights="balanced")
    loss.fit(torch.tensor([3, 0]))
    assert loss.weights.values is not None
    assert loss.weights.values.tolist() == [0.5, 1.5]


def test_given_weights_are_not_refitted_and_are_no_part_of_a_checkpoint() -> None:
    loss = losses.BinaryCrossEntropy(class_weights=[1.0, 4.0])
    loss.fit(torch.tensor([1, 9]))
    assert loss.weights.values is not None
    assert loss.weights.values.tolist() == [1.0, 4.0]
    assert loss.state_dict() == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.CrossEntropy(class_weights="even"), "balanced"),
        (lambda: losses.CrossEntropy(class_weights=[1.0, 0.0]), "positive"),
        (lambda: losses.CrossEntropy(label_smoothing=1.0), "label_smoothing"),
        (lambda: losses.Hinge(power=3), "squared_hinge"),
        (lambda: losses.Focal(gamma=-1), "gamma"),
        (lambda: losses.Huber(delta=0), "delta"),
        (lambda: losses.Hinge(class_weights=[1.0] * 4)(torch.zeros(2, 3), torch.tensor([0, 1])), "4 numbers for 3"),
        (lambda: losses.Hinge(class_weights=[1.0] * 3)(torch.zeros(2, 1), torch.tensor([0, 1])), "3 numbers for 2"),
    ],
)
def test_wrong_settings_are_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=words):
        make()

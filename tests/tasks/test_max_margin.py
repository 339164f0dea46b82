"""The support vector machine's objective, against scikit-learn's solvers and numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.models.svm import GaussianSVM, LinearSVM
from dlrun.tasks import Source
from dlrun.tasks.max_margin import MaxMargin, crammer_singer, one_vs_rest

TWO = Facts("two", "table", (3,), "classification", classes=("no", "yes"))
THREE = Facts("three", "table", (3,), "classification", classes=tuple("abc"))
NUMBERS = Facts("numbers", "table", (3,), "regression", targets=("y",))


def blobs(classes: int, count: int = 90) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % classes
    centres = 1.2 * torch.eye(3)[:classes]
    return centres[targets] + torch.randn(count, 3, generator=source), targets


def source(inputs: Tensor, targets: Tensor, size: int = 40) -> Source:
    return lambda: zip(inputs.split(size), targets.split(size), strict=True)


def solve(task: MaxMargin, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Minimise the loss in float64 by L-BFGS."""
    task.fit(targets, source(inputs, targets))
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(model, (inputs, targets))[0]  # type: ignore[arg-type]
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


def measured(task: MaxMargin, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    with torch.no_grad():
        found = task.measure(model, source(inputs, targets)(), "test")  # type: ignore[arg-type]
    return {name: float(value) for name, value in found.metrics.items()}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("C", [0.1, 3.0])
def test_the_optimum_is_scikit_learn_s(classes: int, C: float) -> None:  # noqa: N803
    """Squared hinge without a bias, which LIBLINEAR would regularise: weights equal to 1e-4, objective to 1e-6."""
    from sklearn.svm import LinearSVC

    inputs, targets = blobs(classes)
    task = MaxMargin(None, TWO if classes == 2 else THREE, C=C)
    model = LinearSVM((3,), task.out_shape()[0], bias=False).double()
    solve(task, model, inputs.double(), targets)
    other = LinearSVC(C=C, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(inputs.numpy(), targets.numpy())
    np.testing.assert_allclose(model.output.weight.detach().numpy(), other.coef_, atol=1e-4)
    found = measured(task, model, inputs.double(), targets)
    signs = np.where(np.arange(classes) == targets.numpy()[:, None], 1, -1)[:, -1:] if classes == 2 else None
    signs = np.where(np.arange(3) == targets.numpy()[:, None], 1, -1) if signs is None else signs
    margins = signs * (inputs.double().numpy() @ other.coef_.T)
    objective = (other.coef_**2).sum() / 2 + C * (np.clip(1 - margins, 0, None) ** 2).sum()
    assert found["objective"] == pytest.approx(objective, rel=1e-6)
    assert found["gradient_norm"] < 1e-4  # scores are measured in float32
    assert found["support_vectors"] == (margins <= 1 + 1e-3).any(1).sum()
    assert found["accuracy"] == pytest.approx(other.score(inputs.numpy(), targets.numpy()))


def test_crammer_and_singer_s_optimum_is_scikit_learn_s() -> None:
    """The hinge has kinks that stop L-BFGS early: within 0.5 % of LIBLINEAR's objective, and never below it."""
    from sklearn.svm import LinearSVC

    inputs, targets = blobs(3)
    task = MaxMargin(None, THREE, C=0.5, hinge="hinge", multiclass="crammer_singer")
    other = LinearSVC(C=0.5, multi_class="crammer_singer", fit_intercept=False, tol=1e-8, max_iter=100_000)
    other.fit(inputs.numpy(), targets.numpy())
    model = LinearSVM((3,), 3, bias=False)
    task.fit(targets, source(inputs, targets))
    with torch.no_grad():
        model.output.weight.copy_(torch.from_numpy(other.coef_))
    best = measured(task, model, inputs, targets)["objective"]
    scores = inputs.double().numpy() @ other.coef_.T
    right = scores[np.arange(90), targets.numpy()]
    scores[np.arange(90), targets.numpy()] = -np.inf
    by_hand = (other.coef_**2).sum() / 2 + 0.5 * np.clip(1 + scores.max(1) - right, 0, None).sum()
    assert best == pytest.approx(by_hand, rel=1e-6)
    torch.nn.init.zeros_(model.output.weight)
    solve(task, model, inputs, targets)
    assert best * (1 - 1e-6) <= measured(task, model, inputs, targets)["objective"] <= best * 1.005


@pytest.mark.parametrize(("gamma", "C"), [(1 / 13, 1.0)])
def test_libsvm_s_solution_of_heart_scale_has_its_objective_and_support_vectors(
    shared_data: Path,
    gamma: float,
    C: float,  # noqa: N803
) -> None:
    """LIBSVM 3.3 at C 1, gamma 1/13: objective 100.8773, 132 support vectors, 234 of 270 right; landmarks: all rows."""
    from sklearn.svm import SVC

    from dlrun.data.libsvm_file import LibsvmFile

    data = LibsvmFile(path=str(shared_data / "libsvm" / "heart_scale"), val=0, test=0).load().train
    inputs, targets = data.inputs, data.targets  # type: ignore[union-attr]
    other = SVC(C=C, gamma=gamma, tol=1e-8).fit(inputs.double().numpy(), targets.numpy())
    facts = Facts("heart", "table", (13,), "classification", classes=("-1", "1"))
    task = MaxMargin(None, facts, C=C, hinge="hinge")
    task.fit(targets, source(inputs, targets))
    model = GaussianSVM((13,), 1, components=270, gamma=gamma)
    model.prepare(source(inputs, targets))
    with torch.no_grad():
        phi = model.features(inputs, torch.eye(270))[torch.from_numpy(other.support_).long()]
        model.weight.copy_(torch.from_numpy(other.dual_coef_).float() @ phi / 270**0.5)
        model.bias.fill_(float(other.intercept_[0]))  # type: ignore[union-attr]
    found = measured(task, model, inputs, targets)
    assert found["objective"] == pytest.approx(100.8773, rel=1e-4)
    assert found["support_vectors"] == 132
    assert found["accuracy"] == pytest.approx(234 / 270)
    assert "gradient_norm" not in found


def test_the_gradient_norm_is_that_of_autograd() -> None:
    inputs, targets = blobs(3)
    task = MaxMargin(None, THREE, C=2.0)
    task.fit(targets, source(inputs, targets))
    model = LinearSVM((3,), 3)
    norms = []
    for at_zero in (False, True):
        other = LinearSVM((3,), 3)
        other.load_state_dict(model.state_dict())
        if at_zero:
            nn.init.zeros_(other.output.weight)
            nn.init.zeros_(other.output.bias)
        (task.loss(other, (inputs, targets))[0] * 2.0 * 90).backward()
        norms.append(torch.cat([p.grad.flatten() for p in other.parameters()]).norm())  # type: ignore[union-attr]
    assert measured(task, model, inputs, targets)["gradient_norm"] == pytest.approx(
        float(norms[0] / norms[1]), rel=1e-5
    )


def test_margins_by_hand() -> None:
    scores = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
    targets = torch.tensor([0, 1])
    assert one_vs_rest(scores, targets).tolist() == [[2.0, 1.0, -0.5], [-0.0, 1.0, -3.0]]
    assert crammer_singer(scores, targets).tolist() == [[1.5], [-2.0]]
    assert one_vs_rest(torch.tensor([[2.0], [3.0]]), targets).tolist() == [[-2.0], [3.0]]


@pytest.mark.parametrize(
    ("hinge", "multiclass", "hinges"),
    [
        ("hinge", "one_vs_rest", (0 + 0 + 1.5 + 1 + 0 + 4) / 2),
        ("squared", "one_vs_rest", (0 + 0 + 2.25 + 1 + 0 + 16) / 2),
        ("hinge", "crammer_singer", 3 / 2),
        ("squared", "crammer_singer", 9 / 2),
    ],
)
def test_the_loss_by_hand(hinge: str, multiclass: str, hinges: float) -> None:
    task = MaxMargin(None, THREE, C=0.5, hinge=hinge, multiclass=multiclass)
    scores, targets = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    task.fit(torch.tensor([0, 1, 2, 2]), source(scores, targets))  # four training examples
    model = LinearSVM((3,), 3, bias=False)
    with torch.no_grad():
        model.output.weight.copy_(torch.eye(3))
    loss, logs = task.loss(model, (scores, targets))
    assert float(loss.detach()) == pytest.approx(hinges + 3 / (2 * 0.5 * 4))
    assert torch.equal(logs["loss"], loss.detach())


def test_the_objective_is_for_the_test_part_and_needs_the_training_part() -> None:
    inputs, targets = blobs(2)
    task, model = MaxMargin(None, TWO), LinearSVM((3,), 1)
    task.restore({"counts": [45, 45]})
    with torch.no_grad():
        alone = task.measure(model, source(inputs, targets)(), "test")
        task.fit(targets, source(inputs, targets))
        val = task.measure(model, source(inputs, targets)(), "val")
        test = task.measure(model, source(inputs, targets)(), "test")
    assert tuple(val.metrics) == tuple(alone.metrics) == task.metric_names() == ("loss", "accuracy", "f1", "auroc")
    assert set(test.metrics) - set(val.metrics) == {"objective", "support_vectors", "gradient_norm"}
    assert {name: float(value) for name, value in test.baseline.items()} == {"accuracy": 0.5}
    assert not any(value.requires_grad for value in test.metrics.values())


def test_rows_name_the_class_and_the_scores() -> None:
    two = MaxMargin(None, TWO).rows(torch.tensor([[-0.25], [1.5]]))
    assert two == [[{"prediction": "no", "score(yes)": -0.25}], [{"prediction": "yes", "score(yes)": 1.5}]]
    three = MaxMargin(None, THREE).rows(torch.tensor([[0.5, -1.0, 2.0]]))
    assert three == [[{"prediction": "c", "score(a)": 0.5, "score(b)": -1.0, "score(c)": 2.0}]]


def test_the_output_layer_in_words() -> None:
    assert MaxMargin(None, TWO).output_layer() == ("1 unit, the sign decides", "margins y f(x), squared hinge, C 1")
    words = MaxMargin(None, THREE, C=5, hinge="hinge", multiclass="crammer_singer").output_layer()
    assert words == ("3 units, the highest decides", "margins crammer singer, hinge, C 5")


@pytest.mark.parametrize(
    ("facts", "changed", "words"),
    [
        (NUMBERS, {}, "'numbers' has numbers to predict"),
        (TWO, {"C": 0}, "task.C=0"),
        (TWO, {"hinge": "square"}, "did you mean 'squared'"),
        (THREE, {"multiclass": "one_vs_one"}, "did you mean 'one_vs_rest'"),
    ],
)
def test_what_cannot_be_is_refused(facts: Facts, changed: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MaxMargin(None, facts, **changed)  # type: ignore[arg-type]


def test_the_state_makes_a_round_trip_through_json() -> None:
    inputs, targets = blobs(3)
    task, other = MaxMargin(None, THREE), MaxMargin(None, THREE)
    task.fit(targets, source(inputs, targets))
    other.restore(json.loads(json.dumps(task.state())))
    model = LinearSVM((3,), 3)
    assert torch.equal(task.loss(model, (inputs, targets))[0], other.loss(model, (inputs, targets))[0])

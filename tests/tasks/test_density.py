"""What a machine is measured by, against exact values of small ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dlrun.algorithms.contrastive_divergence import ContrastiveDivergence
from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.models.rbm import RBM
from dlrun.tasks import HIGHER_IS_BETTER, Measured
from dlrun.tasks.annealed_importance import exact_log_z
from dlrun.tasks.density import Density, pseudo_log_likelihood
from tiny import make_updater

FACTS = Facts("bars", "image", (1, 4, 4), "classification", classes=("a", "b"))


def bars(count: int = 200) -> Tensor:
    """Pictures (count, 1, 4, 4) with one or more of the four rows on."""
    rows = torch.rand(count, 1, 4, 1, generator=torch.Generator().manual_seed(3)) < 0.4
    return rows.float().expand(-1, -1, -1, 4).contiguous()


def source(inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part in inputs.split(64):
        yield part, torch.zeros(len(part), dtype=torch.int64)


def fitted(inputs: Tensor, **options: Any) -> Density:
    task = Density(None, FACTS, **options)
    task.fit(torch.zeros(len(inputs)), lambda: source(inputs))
    return task


def trained(hidden: int = 12, steps: int = 300) -> RBM:
    torch.manual_seed(0)
    model = RBM((1, 4, 4), hidden)
    model.prepare(lambda: source(bars()))
    algorithm = ContrastiveDivergence(model, make_updater(model, 0.1))
    for _ in range(steps):
        algorithm.step((bars(), torch.zeros(0)))
    return model


def measured(task: Density, model: RBM, inputs: Tensor, split: str) -> Measured:
    torch.manual_seed(1)
    with torch.no_grad():
        return task.measure(model, source(inputs), split)


def test_exact_and_annealed_log_likelihood_agree_on_a_trained_machine_of_12_hidden_units() -> None:
    model = trained()
    task = fitted(bars(), ais_chains=100, ais_steps=1000)
    found = measured(task, model, bars(80), "test")
    exact = float(found.metrics["exact_log_likelihood"])
    by_hand = float((-model(bars(80)) - exact_log_z(model.view())).detach().mean())
    assert exact == pytest.approx(by_hand, abs=1e-4)
    assert abs(exact - float(found.metrics["log_likelihood"])) < float(found.metrics["log_likelihood_spread"]) < 0.5
    assert exact > float(found.baseline["log_likelihood"]) + 3  # the rows are not independent pixels


def test_the_baseline_is_independent_pixels() -> None:
    task = fitted(bars())
    share = (bars().flatten(1).sum(0) + 1) / (len(bars()) + 2)
    pixels = bars(50).flatten(1)
    expected = (pixels * share.log() + (1 - pixels) * (1 - share).log()).sum(1).mean()
    found = measured(task, RBM((1, 4, 4), 3), bars(50), "val")
    assert float(found.baseline["pseudo_likelihood"]) == pytest.approx(float(expected), abs=1e-4)
    assert float(found.baseline["reconstruction"]) == pytest.approx(
        float((pixels - share).square().sum(1).mean()), abs=1e-4
    )


def test_validation_has_the_cheap_metrics_and_test_all_of_them() -> None:
    task = fitted(bars(), ais_chains=4, ais_steps=29)
    validation = measured(task, RBM((1, 4, 4), 30), bars(20), "val")
    assert set(validation.metrics) == set(task.metric_names()) == {"pseudo_likelihood", "reconstruction"}
    test = measured(task, RBM((1, 4, 4), 3), bars(20), "test")
    assert set(test.metrics) - set(task.metric_names()) == {
        "log_likelihood", "log_likelihood_spread", "exact_log_likelihood"
    }  # fmt: skip
    assert task.monitor.metric in validation.metrics
    assert HIGHER_IS_BETTER[task.monitor.metric] is task.monitor.higher_is_better


def test_pseudo_likelihood_is_the_mean_over_units_of_what_the_others_say() -> None:
    """The estimate's mean over 20,000 draws against the sum over all units; deviation of the mean below 0.04."""
    view = trained(steps=50).view()
    visible = bars(1).flatten(1)
    conditional = []
    for unit in range(16):
        other = visible.clone()
        other[0, unit] = 1 - other[0, unit]
        difference = view.free_energy(other) - view.free_energy(visible)
        conditional.append(torch.nn.functional.logsigmoid(difference))
    exact = float(torch.cat(conditional).sum().detach())
    drawn = pseudo_log_likelihood(view, visible.expand(20_000, -1)).detach()
    assert float(drawn.mean()) == pytest.approx(exact, abs=0.15)


def test_pseudo_likelihood_of_independent_units_is_their_log_likelihood() -> None:
    model = RBM((1, 4, 4), 5)
    task = fitted(bars())
    with torch.no_grad():
        model.weight.zero_()
        model.visible_bias.copy_(task.base(model.view()))
        states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).repeat(500, 4)
        estimate = pseudo_log_likelihood(model.view(), states).mean()
        exact = (-model(states) - exact_log_z(model.view())).mean()
    assert float(estimate) == pytest.approx(float(exact), abs=0.3)  # 8,000 draws of deviation about 10


def test_gaussian_visible_units_are_measured_without_bits() -> None:
    inputs = torch.randn(100, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    task = fitted(inputs, visible="gaussian", ais_chains=50, ais_steps=100)
    model = RBM((1, 4, 4), 6, "gaussian")
    found = measured(task, model, inputs, "test")
    assert set(task.metric_names()) == {"reconstruction"}
    assert task.monitor.metric == "reconstruction"
    assert abs(float(found.metrics["exact_log_likelihood"] - found.metrics["log_likelihood"])) < 0.05
    best = torch.distributions.Normal(inputs.mean(0), 1.0).log_prob(inputs).sum((1, 2, 3)).mean()
    assert float(found.baseline["log_likelihood"]) == pytest.approx(float(best), abs=1e-3)


def test_samples_of_a_trained_machine_have_whole_rows() -> None:
    """The data's rows are on or off as a whole; nearly all of the fantasies' rows are too."""
    torch.manual_seed(2)
    with torch.no_grad():
        samples = fitted(bars()).sample(trained(), 50)
    assert samples.shape == (50, 1, 4, 4)
    rows = (samples > 0.5).float().mean(3)
    assert float(((rows == 0) | (rows == 1)).float().mean()) > 0.8


def test_what_was_learnt_comes_back_from_its_state() -> None:
    task, other = fitted(bars()), Density(None, FACTS)
    other.restore(task.state())
    view = RBM((1, 4, 4), 2).view()
    assert torch.equal(task.base(view), other.base(view))


def test_rows_are_free_energies() -> None:
    assert Density(None, FACTS).rows(torch.tensor([1.5, -2.0])) == [[{"free_energy": 1.5}], [{"free_energy": -2.0}]]
    assert RBM((1, 4, 4), 2)(Density(None, FACTS).example()[0]).shape == (2,)


def test_what_cannot_work_is_refused() -> None:
    tokens = Facts("shakespeare", "text", (64,), "language_modelling", vocabulary=65)
    with pytest.raises(ConfigError, match="data=mnist"):
        Density(None, tokens)
    with pytest.raises(ConfigError, match="at least 2 and 29"):
        Density(None, FACTS, ais_chains=1)

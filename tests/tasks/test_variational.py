"""The variational bound: its parts equal to torch's distributions, and below the exact log-likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError, DataError
from dlrun.losses import BinaryCrossEntropy, Huber, MeanSquaredError
from dlrun.models.vae import VAE
from dlrun.tasks.variational import Variational

IMAGES = Facts("digits", "image", (1, 4, 4), "classification", classes=("a", "b"))
GREY = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(10))
BINARY = (GREY > 0.6).float()


def batches(x: Tensor, size: int = 25) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(size)]


def bernoulli(**keys: Any) -> Variational:
    return Variational(BinaryCrossEntropy(), IMAGES, **keys)


def network(code: int = 3) -> VAE:
    torch.manual_seed(0)
    return VAE((1, 4, 4), nn.Tanh, hidden=(8,), code=code)


@pytest.mark.parametrize("kl_weight", [1.0, 0.25])
def test_the_parts_are_those_of_torchs_distributions(kl_weight: float) -> None:
    task, model = bernoulli(kl_weight=kl_weight), network()
    torch.manual_seed(1)
    loss, logs = task.loss(model, batches(BINARY, 60)[0])
    torch.manual_seed(1)
    torch.bernoulli(BINARY)
    mean, log_variance = model.posterior(BINARY)
    q = Normal(mean, (log_variance / 2).exp())
    z = q.rsample()
    reconstruction = -Bernoulli(logits=model.decode(z)).log_prob(BINARY).flatten(1).sum(1).mean()
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(logs["reconstruction"], reconstruction.detach())
    torch.testing.assert_close(logs["kl"], kl.detach())
    torch.testing.assert_close(loss, reconstruction + kl_weight * kl)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    theirs = torch.autograd.grad(reconstruction + kl_weight * kl, list(model.parameters()))
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("deviation", [1.0, 0.3])
def test_squared_error_is_a_gaussian_likelihood(deviation: float) -> None:
    task = Variational(MeanSquaredError(), IMAGES, deviation=deviation)
    outputs = torch.randn(60, 16)
    expected = -Normal(outputs.view(60, 1, 4, 4), deviation).log_prob(GREY).flatten(1).sum(1)
    torch.testing.assert_close(task.nats(outputs, GREY), expected)
    assert torch.equal(task.observed(GREY), GREY), "numbers are not drawn"


def test_the_bound_is_below_the_likelihood_and_touches_it_at_the_exact_posterior() -> None:
    """x = z + noise with a prior of deviation 1: p(x) and q(z|x) are Gaussians known exactly."""

    class Exact(nn.Module):
        code_features = 1

        def __init__(self, spread: float) -> None:
            super().__init__()
            self.spread = spread

        def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x / 2, torch.full_like(x, 0.5 * self.spread).log()

        def decode(self, z: Tensor) -> Tensor:
            return z

    facts = Facts("line", "table", (1,), "regression", targets=("y",))
    task = Variational(MeanSquaredError(), facts)
    x = torch.linspace(-2, 2, 2000)[:, None]
    exact = Normal(0.0, 2**0.5).log_prob(x).mean().item()
    bounds = {s: task.measure(Exact(s), batches(x, 500), "test").metrics["elbo"].item() for s in (1.0, 0.25, 3.0)}
    # 20,000 samples of a term of deviation below 1: five standard errors are 0.035.
    assert bounds[1.0] == pytest.approx(exact, abs=0.035)
    assert bounds[0.25] < exact - 0.1
    assert bounds[3.0] < exact - 0.1


def test_elbo_has_weight_one_and_the_loss_its_own() -> None:
    task = bernoulli(kl_weight=4.0)
    with torch.no_grad():
        found = task.measure(network(), batches(BINARY), "val").metrics
    assert list(found) == list(task.metric_names())
    torch.testing.assert_close(found["elbo"], -found["reconstruction"] - found["kl"])
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 4 * found["kl"])


def test_the_baseline_takes_pixels_as_independent() -> None:
    task = bernoulli()
    task.fit(torch.zeros(60), lambda: batches(BINARY))
    found = task.measure(network(), batches(BINARY), "val").baseline["elbo"].item()
    share = (BINARY.sum(0) + 1) / 62
    assert found == pytest.approx(Bernoulli(share).log_prob(BINARY).flatten(1).sum(1).mean().item(), rel=1e-5)
    other = bernoulli()
    other.restore(task.state())
    assert other.measure(network(), batches(BINARY), "val").baseline["elbo"].item() == found


def test_a_pixel_that_is_never_white_is_not_impossible() -> None:
    task = bernoulli()
    task.fit(torch.zeros(60), lambda: batches(torch.zeros_like(BINARY)))
    assert task.measure(network(), batches(BINARY), "val").baseline["elbo"].isfinite()


def test_the_gaussian_baseline_is_the_mean() -> None:
    task = Variational(MeanSquaredError(), IMAGES)
    task.fit(torch.zeros(60), lambda: batches(GREY))
    torch.testing.assert_close(task.constant, GREY.mean(0))


def test_grey_pixels_are_drawn_anew_each_time_unless_they_are_taken_as_they_are() -> None:
    first, second = (bernoulli().observed(GREY) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    assert torch.equal(bernoulli().observed(BINARY), BINARY)
    assert torch.equal(bernoulli(binarize=False).observed(GREY), GREY)


def test_the_test_part_takes_more_samples_of_the_code() -> None:
    class Counting(VAE):
        decoded = 0

        def decode(self, code: Tensor) -> Tensor:
            self.decoded += 1
            return super().decode(code)

    counts = {}
    for split in ("val", "test"):
        model = Counting((1, 4, 4), nn.Tanh, hidden=(8,), code=3)
        with torch.no_grad():
            bernoulli().measure(model, batches(BINARY, 60), split)
        counts[split] = model.decoded
    assert counts == {"val": 1, "test": 10}


def test_samples_are_values_in_the_inputs_range() -> None:
    model = network()
    with torch.no_grad():
        drawn = bernoulli().sample(model, 5)
        torch.manual_seed(2)
        again = bernoulli().sample(model, 5)
        torch.manual_seed(2)
        codes = torch.randn(5, 3)
        assert torch.equal(again, model.decode(codes).sigmoid())
    assert drawn.shape == (5, 1, 4, 4)
    assert ((drawn > 0) & (drawn < 1)).all()
    assert not torch.equal(drawn, again)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bernoulli(kl_weight=-1), r"task\.kl_weight=-1 must not be negative"),
        (lambda: bernoulli(deviation=0), r"task\.deviation=0 must be positive"),
        (lambda: Variational(BinaryCrossEntropy(label_smoothing=0.1), IMAGES), r"loss\.label_smoothing=0"),
        (lambda: Variational(Huber(), IMAGES), "Huber is for"),
    ],
)
def test_wrong_settings_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_standardised_pixels_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.pixels=unit"):
        bernoulli().fit(torch.zeros(60), lambda: batches(GREY - 0.5))

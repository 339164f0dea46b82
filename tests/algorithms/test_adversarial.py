from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.adversarial_losses import LeastSquares, NonSaturating, Wasserstein, gradient_penalty
from dlrun.algorithms import Phased
from dlrun.algorithms.adversarial import Adversarial
from dlrun.errors import ConfigError
from dlrun.models.dcgan import DCGAN
from dlrun.models.gan import GAN
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater

RATE = 0.1


def updater_of(net: nn.Module) -> Updater:
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    return Updater(optimizer, torch.amp.GradScaler("cpu", enabled=False))


def make(loss: Any, seed: int = 0, **keys: Any) -> Adversarial:
    torch.manual_seed(seed)
    return Adversarial(GAN((2,), latent=3, hidden=(8,)), loss, Precision(), updater_of, **keys)


def batch(count: int = 6, seed: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)), torch.zeros(count, dtype=torch.int64)


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("loss", [NonSaturating(), LeastSquares(), Wasserstein()])
def test_a_step_is_one_of_the_discriminator_then_one_of_the_generator_by_autograd(loss: Any) -> None:
    algorithm = make(loss)
    model: Any = copy.deepcopy(algorithm.model)
    real, _ = batch()
    torch.manual_seed(1)
    logs = algorithm.step(batch())

    torch.manual_seed(1)
    fake = model.generator(model.noise(6)).detach()
    first = loss.discriminator(model.discriminator(real), model.discriminator(fake))
    if loss.penalty:
        first = first + loss.penalty * gradient_penalty(model.discriminator, real, fake)
    parameters = list(model.discriminator.parameters())
    slopes = torch.autograd.grad(first, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            assert slope is not None
            parameter -= RATE * slope
    second = loss.generator(model.discriminator(model.generator(model.noise(6))))
    slopes = torch.autograd.grad(second, list(model.generator.parameters()))
    with torch.no_grad():
        for parameter, slope in zip(model.generator.parameters(), slopes, strict=True):
            parameter -= RATE * slope

    for mine, expected in zip(algorithm.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(logs, {"discriminator": first.detach(), "generator": second.detach()})
    assert all(p.requires_grad for p in algorithm.model.parameters())


def test_the_generator_moves_after_every_k_steps_and_the_logs_have_the_same_keys() -> None:
    algorithm = make(NonSaturating(), critic_steps=3)
    moved, logged = [], []
    for _ in range(7):
        generator, discriminator = weights(algorithm.model.generator), weights(algorithm.model.discriminator)
        logs = algorithm.step(batch())
        assert list(logs) == ["discriminator", "generator"]
        moved.append(not all(map(torch.equal, generator, weights(algorithm.model.generator))))
        assert not all(map(torch.equal, discriminator, weights(algorithm.model.discriminator)))
        logged.append(logs["generator"].item())
    assert moved == [False, False, True, False, False, True, False]
    assert logged[0] == logged[1] == 0 < logged[2] == logged[3] == logged[4] != logged[5] == logged[6]


def test_goes_on_exactly_in_the_middle_of_k_steps() -> None:
    def steps(algorithm: Adversarial, count: int) -> list[float]:
        return [logs.item() for _ in range(count) for logs in algorithm.step(batch()).values()]

    whole = make(NonSaturating(), critic_steps=3)
    torch.manual_seed(2)
    expected = steps(whole, 8)

    first, second = make(NonSaturating(), critic_steps=3), make(NonSaturating(), seed=9, critic_steps=3)
    torch.manual_seed(2)
    found = steps(first, 4)
    second.model.load_state_dict(first.model.state_dict())  # type: ignore[attr-defined]
    second.updater.load_state_dict(first.updater.state_dict())
    second.load_state_dict(first.state_dict())
    assert found + steps(second, 4) == expected


def test_the_discriminator_may_have_another_rate() -> None:
    algorithm = make(NonSaturating(), discriminator_rate=4.0)
    assert algorithm.updater.rate == pytest.approx(RATE)
    assert algorithm.discriminator_updater.rate == pytest.approx(4 * RATE)
    algorithm.updater.set_factor(0.5)
    assert algorithm.discriminator_updater.rate == pytest.approx(2 * RATE)
    assert algorithm.generator_updater.rate == pytest.approx(RATE / 2)


def test_the_gradients_of_both_are_still_there_after_a_step() -> None:
    algorithm = make(NonSaturating())
    algorithm.step(batch())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in algorithm.model.parameters())  # type: ignore[attr-defined]
    assert algorithm.updater.gradient_norm() > 0


def test_the_images_of_a_convolutional_model_of_one_last_example() -> None:
    torch.manual_seed(0)
    model = DCGAN((1, 8, 8), channels=4)
    algorithm = Adversarial(model, Wasserstein(), Precision(), updater_of)
    logs = algorithm.step((torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)))
    assert all(value.isfinite() for value in logs.values())


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"critic_steps": 0}, "algorithm.critic_steps=0"),
        ({"discriminator_rate": 0.0}, "algorithm.discriminator_rate=0"),
    ],
)
def test_keys_out_of_range_are_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(NonSaturating(), **keys)


def test_a_penalty_and_batch_normalisation_are_refused_together() -> None:
    model = DCGAN((1, 16, 16), channels=4, batch_norm=True)
    Adversarial(model, NonSaturating(), Precision(), updater_of)
    with pytest.raises(ConfigError, match=r"model\.batch_norm=false"):
        Adversarial(model, Wasserstein(), Precision(), updater_of)


def test_the_phase_says_when_the_generator_steps_and_counting_moves_it_on() -> None:
    algorithm = make(NonSaturating(), critic_steps=3)
    assert isinstance(algorithm, Phased)
    foreseen = [algorithm.phase(ahead) for ahead in range(6)]
    for expected in foreseen:
        before = weights(algorithm.model.generator)
        assert algorithm.phase(0) == expected
        algorithm.step(batch())
        assert expected != all(map(torch.equal, before, weights(algorithm.model.generator)))
    assert foreseen == [False, False, True] * 2
    algorithm.count(2)
    assert algorithm.phase(0)

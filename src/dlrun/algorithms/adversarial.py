"""Adversarial training: the discriminator learns to tell real from generated, the generator to be taken for real.

Source: I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, algorithm 1: k steps of the discriminator,
then one of the generator. Differs from it in: 1. any of the losses of ``dlrun.adversarial_losses``; 2. any optimizer,
one for each net; the discriminator's rate may be another (M. Heusel et al., NeurIPS 2017: two time scales).

Shapes: B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dlrun.adversarial_losses import AdversarialLoss, gradient_penalty
from dlrun.errors import ConfigError
from dlrun.tasks import Batch
from dlrun.training.precision import Precision
from dlrun.training.updater import Updater, Updaters


class Adversaries(Protocol):
    """What adversarial training asks of a model."""

    generator: nn.Module
    discriminator: nn.Module

    def noise(self, count: int) -> Tensor:
        """What the generator makes ``count`` examples of."""
        ...


class Adversarial:
    """Each step takes one batch: a discriminator step on it, and after every ``critic_steps`` of them a generator step.

    Logs ``discriminator`` and ``generator``, the losses before the step; the generator's is the latest there is, 0
    before its first step. The discriminator's includes the gradient penalty.

    Args:
        critic_steps: discriminator steps for each generator step, k in the paper.
        discriminator_rate: the discriminator's learning rate as a multiple of the generator's.

    Raises:
        ConfigError: a number out of its range, or a gradient penalty on a discriminator with batch normalisation.
    """

    in_pieces: ClassVar[bool] = False
    scaled_loss: ClassVar[bool] = False
    consecutive: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "noise")
    unpackable: ClassVar[str] = "two networks with an optimizer each take turns in a step"
    ungraphable: ClassVar[str] = ""

    def __init__(
        self,
        model: Adversaries,
        loss: AdversarialLoss,
        precision: Precision,
        updater_of: Callable[[nn.Module], Updater],
        critic_steps: int = 1,
        discriminator_rate: float = 1.0,
    ) -> None:
        if critic_steps < 1:
            raise ConfigError(f"algorithm.critic_steps={critic_steps} must be at least 1; 5 goes with loss=wasserstein")
        if discriminator_rate <= 0:
            raise ConfigError(f"algorithm.discriminator_rate={discriminator_rate} must be above 0; 1 is the same rate")
        if loss.penalty > 0 and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.discriminator.modules()
        ):
            raise ConfigError(
                f"loss.penalty={loss.penalty} looks at single examples, and batch normalisation in the discriminator "
                "mixes them; use model.batch_norm=false, or loss.penalty=0"
            )
        self.model, self.loss, self.critic_steps = model, loss, critic_steps
        self.generator_updater = updater_of(model.generator)
        self.discriminator_updater = updater_of(model.discriminator)
        _change_rate(self.discriminator_updater, discriminator_rate)
        self.updater = Updaters([self.generator_updater, self.discriminator_updater])
        device = self.updater.parameters[0].device
        self.autocast = precision.autocast(device)
        self.steps = 0
        self.generator_loss = torch.zeros((), device=device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """A discriminator step on the batch and, when its turn has come, a generator step."""
        real, _ = batch
        discriminator_loss = self.improve_discriminator(real)
        self.steps += 1
        if self.steps % self.critic_steps == 0:
            self.generator_loss = self.improve_generator(len(real))
        return {"discriminator": discriminator_loss, "generator": self.generator_loss}

    def improve_discriminator(self, real: Tensor) -> Tensor:
        """Make it better at telling real examples (B, ...) from as many generated ones; the loss before, 0-d."""
        self.discriminator_updater.zero_grad()
        with self.autocast:
            with torch.no_grad():
                fake = self.model.generator(self.model.noise(len(real))).to(real.dtype)
            scores = self.model.discriminator(real).float(), self.model.discriminator(fake).float()
            loss = self.loss.discriminator(*scores)
            if self.loss.penalty > 0:
                loss = loss + self.loss.penalty * gradient_penalty(self.model.discriminator, real, fake)
        self.discriminator_updater.backward(loss)
        self.discriminator_updater.step()
        return loss.detach()

    def improve_generator(self, count: int) -> Tensor:
        """Make it better at being taken for real, by ``count`` new examples; the loss before, 0-d."""
        self.generator_updater.zero_grad()
        with _fixed(self.discriminator_updater.parameters):
            with self.autocast:
                fake = self.model.generator(self.model.noise(count))
                loss = self.loss.generator(self.model.discriminator(fake).float())
            self.generator_updater.backward(loss)
        self.generator_updater.step()
        return loss.detach()

    def phase(self, ahead: int) -> bool:
        """Whether the step after so many more is one of the generator, too."""
        return (self.steps + ahead + 1) % self.critic_steps == 0

    def count(self, steps: int) -> None:
        """Count steps that were replayed."""
        self.steps += steps

    def state_dict(self) -> dict[str, Any]:
        """Whose turn it is, and the loss that is logged until the generator's next."""
        return {"steps": self.steps, "generator_loss": self.generator_loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.steps = state["steps"]
        self.generator_loss = state["generator_loss"].to(self.generator_loss.device)


@contextmanager
def _fixed(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gradients pass through a net without being worked out for its own weights."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _change_rate(updater: Updater, factor: float) -> None:
    """Multiply the rates that schedules start from."""
    updater.base_rates = [rate * factor for rate in updater.base_rates]
    for group, rate in zip(updater.optimizer.param_groups, updater.base_rates, strict=True):
        group["lr"] = rate

"""Schedules: the factor on the optimizer's base rate as a function of the step; stateless but for ``Plateau``.

``factor(step, total, steps_per_epoch)``: ``step`` optimizer steps are done, ``total`` is the length of the run.
Every schedule first warms up in a straight line (Goyal et al. 2017), over ``warmup`` of the run if below 1, else over
so many steps; its own curve spans what remains. At warmup 0 they equal torch.optim.lr_scheduler where it has the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol

from dlrun.errors import ConfigError


def positive(key: str, value: float, example: float) -> float:
    """``value`` when it is above 0.

    Raises:
        ConfigError: it is not.
    """
    if not value > 0:
        raise ConfigError(f"schedule.{key}={value} must be positive; use for example schedule.{key}={example}")
    return value


def share_or_steps(warmup: float) -> float:
    """``warmup`` when it can be one.

    Raises:
        ConfigError: it is negative.
    """
    if not warmup >= 0:
        raise ConfigError(f"schedule.warmup={warmup} must be a share of the run (0.1) or a number of steps (500)")
    return warmup


class Schedule(Protocol):
    """What a trainer asks of a schedule."""

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """The factor on the base rate for the next step."""

    def observe(self, value: float) -> None:
        """Take the monitored value of an evaluation, turned so that lower is better."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""


def after_warmup(step: int, total: int, warmup: float) -> tuple[float, int, int]:
    """The warm-up's factor in (0, 1], then the step and the length counted from the warm-up's end."""
    steps = min(round(warmup * total) if warmup < 1 else round(warmup), total)
    ramp = (step + 1) / (steps + 1) if step < steps else 1.0
    return ramp, max(0, step - steps), max(1, total - steps)


def progress(step: int, total: int) -> float:
    """Share of the run that is done, at most 1."""
    return min(1.0, step / total)


def falling_cosine(x: float) -> float:
    """1 at x = 0, 0 at x = 1, flat at both ends."""
    return (1 + math.cos(math.pi * x)) / 2


class Stateless(ABC):
    """A schedule that is a function of the step alone: nothing to observe, nothing to save."""

    @abstractmethod
    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """The factor on the base rate for the next step."""

    def observe(self, value: float) -> None:  # noqa: B027 - inert on purpose
        """Take no notice: the factor does not depend on results."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - inert on purpose
        """Nothing to take up."""


class Constant(Stateless):
    """The base rate throughout.

    Args:
        warmup: share of the run if below 1, else steps.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        self.warmup = share_or_steps(warmup)

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """1 after the warm-up."""
        return after_warmup(step, total, self.warmup)[0]


class Step(Stateless):
    """Multiply by ``gamma`` every so often (torch's StepLR), or at given places (MultiStepLR).

    Args:
        every: share of the run if below 1, else epochs.
        gamma: the factor of one drop.
        at: places of the drops, in the same units, instead of ``every``.
        warmup: share of the run if below 1, else steps.
    """

    def __init__(
        self, every: float = 0.3, gamma: float = 0.1, at: list[float] | None = None, warmup: float = 0.0
    ) -> None:
        self.every = positive("every", every, 0.3)
        self.gamma = positive("gamma", gamma, 0.1)
        self.at = [positive("at", place, 0.5) for place in at or []]
        self.warmup = share_or_steps(warmup)

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """gamma^(number of drops so far)."""
        ramp, step, total = after_warmup(step, total, self.warmup)
        every, *at = (place * (total if place < 1 else steps_per_epoch) for place in (self.every, *self.at))
        drops = sum(step >= place for place in at) if at else math.floor(step / max(1.0, every))
        return ramp * float(self.gamma**drops)


class Exponential(Stateless):
    """Multiply by ``gamma`` each epoch, a little each step; torch's ExponentialLR at the epochs' ends.

    Args:
        gamma: the factor of one epoch.
        warmup: share of the run if below 1, else steps.
    """

    def __init__(self, gamma: float = 0.95, warmup: float = 0.0) -> None:
        self.gamma = positive("gamma", gamma, 0.95)
        self.warmup = share_or_steps(warmup)

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """gamma^epochs."""
        ramp, step, total = after_warmup(step, total, self.warmup)
        return ramp * float(self.gamma ** (step / steps_per_epoch))


class Linear(Stateless):
    """A straight line from the base rate to ``final`` of it.

    Args:
        final: the last factor.
        warmup: share of the run if below 1, else steps.
    """

    def __init__(self, final: float = 0.0, warmup: float = 0.0) -> None:
        self.final = final
        self.warmup = share_or_steps(warmup)

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """1 - progress, between 1 and ``final``."""
        ramp, step, total = after_warmup(step, total, self.warmup)
        return ramp * (self.final + (1 - self.final) * (1 - progress(step, total)))


class Cosine(Stateless):
    """Half a cosine from the base rate to ``final`` of it (Loshchilov, Hutter 2017); torch's CosineAnnealingLR.

    Args:
        final: the last factor.
        warmup: share of the run if below 1, else steps.
    """

    def __init__(self, final: float = 0.0, warmup: float = 0.0) -> None:
        self.final = final
        self.warmup = share_or_steps(warmup)

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """(1 + cos(pi progress)) / 2, between 1 and ``final``."""
        ramp, step, total = after_warmup(step, total, self.warmup)
        return ramp * (self.final + (1 - self.final) * falling_cosine(progress(step, total)))


class CosineRestarts(Stateless):
    """Cosines one after the other, each ``growth`` times as long, that end with the run (SGDR).

    Loshchilov and Hutter 2017, equation (5); torch's CosineAnnealingWarmRestarts with T_mult = growth. Differs in: the
    first length T_0 follows from the number of cycles and the length of the run, so that the last cycle is complete.

    Args:
        cycles: how many cosines.
        growth: each one's length over the last one's.
        final: the last factor of each.
        warmup: share of the run if below 1, else steps.
    """

    def __init__(self, cycles: int = 3, growth: float = 2.0, final: float = 0.0, warmup: float = 0.0) -> None:
        self.cycles = int(positive("cycles", cycles, 3))
        self.growth = positive("growth", growth, 2.0)
        self.final = final
        self.warmup = share_or_steps(warmup)

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """A cosine of the progress within the present cycle."""
        ramp, step, total = after_warmup(step, total, self.warmup)
        lengths = [self.growth**i for i in range(self.cycles)]
        left = step * sum(lengths) / total  # in units of the first cycle
        for length in lengths[:-1]:
            if left < length - 1e-9:
                break
            left -= length
        else:
            length = lengths[-1]
        return ramp * (self.final + (1 - self.final) * falling_cosine(min(1.0, max(0.0, left) / length)))


class OneCycle(Stateless):
    """Up to the base rate by half a cosine, then down to almost nothing (Smith, Topin 2018); torch's OneCycleLR.

    The base rate is the highest one. Differs from the paper in: 1. cosines for lines, as torch has it; 2. momentum
    stays.

    Args:
        warmup: the way up, as a share of the run if below 1, else steps.
        start: the first factor.
        final: the last factor.
    """

    def __init__(self, warmup: float = 0.3, start: float = 0.04, final: float = 4e-6) -> None:
        self.warmup = share_or_steps(warmup)
        self.start = start
        self.final = final

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Rises over ``warmup``, falls over the rest."""
        peak = (self.warmup * total if self.warmup < 1 else min(self.warmup, total)) - 1
        if step < peak:
            return 1 + (self.start - 1) * falling_cosine(step / peak)
        fall = max(1.0, total - 1 - peak)
        return self.final + (1 - self.final) * falling_cosine(min(1.0, (step - peak) / fall))


class Plateau:
    """Multiply by ``gamma`` when the monitored value has not improved; torch's ReduceLROnPlateau.

    Args:
        gamma: the factor of one drop.
        patience: evaluations without improvement that are let pass.
        threshold: share by which the value must fall to count as an improvement.
        floor: the smallest factor.
        warmup: share of the run if below 1, else steps.
    """

    def __init__(
        self,
        gamma: float = 0.5,
        patience: int = 3,
        threshold: float = 1e-4,
        floor: float = 1e-3,
        warmup: float = 0.0,
    ) -> None:
        self.gamma = positive("gamma", gamma, 0.5)
        self.patience = patience
        self.threshold = threshold
        self.floor = floor
        self.warmup = share_or_steps(warmup)
        self.best = math.inf
        self.bad = 0
        self.level = 1.0

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """gamma^(number of drops so far), at least ``floor``."""
        return after_warmup(step, total, self.warmup)[0] * self.level

    def observe(self, value: float) -> None:
        """Count the evaluations since the last improvement; drop when patience ends."""
        if math.isinf(self.best) or value < self.best - self.threshold * abs(self.best):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.level, self.bad = max(self.floor, self.level * self.gamma), 0

    def state_dict(self) -> dict[str, Any]:
        """The best value, the evaluations since, and the present factor."""
        return {"best": self.best, "bad": self.bad, "level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.best, self.bad, self.level = float(state["best"]), int(state["bad"]), float(state["level"])

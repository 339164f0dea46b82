"""The ``trainer`` group, read and checked: every number in its range before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlrun.errors import ConfigError, did_you_mean
from dlrun.tasks import HIGHER_IS_BETTER, Monitor
from dlrun.training.plan import Plan
from dlrun.value_types import parse_time

FEWEST_STEPS = 3000
FEWEST_EPOCHS = 20
MOST_EVALUATIONS = 30
USUAL_BATCH = 64


@dataclass(frozen=True)
class Settings:
    """The trainer group as numbers. ``None`` is off or no limit; "auto" is resolved by the methods.

    Raises:
        ConfigError: a value out of range; names the key.
    """

    epochs: int | float | str | None
    steps: int | None
    budget: float | None
    batch_size: int | str
    accumulate: int
    clip_norm: float | None
    clip_value: float | None
    ema: float
    evaluate_every: int | float | str
    evaluate_steps: int | None
    monitor: str
    early_stop: int | None
    checkpoint_every: int | str
    limit: dict[str, float | None]
    init_from: str | None
    seed: int
    device: str
    devices: int
    channels_last: bool | str
    threads: int | str
    workers: int | str
    deterministic: bool | str
    detect_anomaly: bool

    def __post_init__(self) -> None:
        self._at_least("epochs", 0, exclusive=True, auto=True, null=True)
        self._at_least("steps", 1, whole=True, null=True)
        self._at_least("batch_size", 1, auto=True, whole=True)
        self._at_least("accumulate", 1, whole=True)
        self._at_least("clip_norm", 0, exclusive=True, null=True)
        self._at_least("clip_value", 0, exclusive=True, null=True)
        self._at_least("evaluate_every", 0, exclusive=True, auto=True)
        self._at_least("evaluate_steps", 1, whole=True, null=True)
        self._at_least("early_stop", 1, whole=True, null=True)
        self._at_least("checkpoint_every", 1, auto=True, whole=True)
        self._at_least("threads", 1, auto=True, whole=True)
        self._at_least("devices", 1, whole=True)
        self._at_least("workers", 0, auto=True, whole=True)
        self._at_least("seed", 0, whole=True)
        if not (isinstance(self.ema, (int, float)) and 0 <= self.ema < 1):
            raise ConfigError(f"trainer.ema={self.ema}: takes a decay from 0 (off) to below 1, such as 0.999")
        if self.epochs is None and self.steps is None and self.budget is None:
            raise ConfigError("the run has no end: set trainer.epochs, trainer.steps or trainer.budget=5m")
        if isinstance(self.epochs, (int, float)) and self.epochs > 1e9:
            raise ConfigError(f"trainer.epochs={self.epochs}: takes at most 1e9; trainer.budget sets a time instead")
        if self.seed >= 2**63:
            raise ConfigError(f"trainer.seed={self.seed}: takes a whole number below 2**63")
        if self.deterministic not in ("auto", True, False):
            raise ConfigError(f"trainer.deterministic={self.deterministic}: takes true, false or auto")
        if self.channels_last not in ("auto", True, False):
            raise ConfigError(f"trainer.channels_last={self.channels_last}: takes true, false or auto")
        if self.init_from is not None and not isinstance(self.init_from, str):
            raise ConfigError(f"trainer.init_from={self.init_from}: takes the directory of a run, or null")
        if not isinstance(self.limit, dict):
            raise ConfigError(f"trainer.limit={self.limit}: holds the keys train, val, test; set one of them")
        for part, value in self.limit.items():
            if value is not None and not (_is_number(value) and value > 0 and (value <= 1 or value == int(value))):
                raise ConfigError(f"trainer.limit.{part}={value}: takes a share up to 1, or a whole number of examples")

    def _at_least(
        self,
        key: str,
        low: float,
        *,
        exclusive: bool = False,
        auto: bool = False,
        whole: bool = False,
        null: bool = False,
    ) -> None:
        value = getattr(self, key)
        if (null and value is None) or (auto and value == "auto"):
            return
        kind = "a whole number" if whole else "a number"
        fits = _is_number(value) and (value > low if exclusive else value >= low)
        if not fits or (whole and not isinstance(value, int)):
            bound = f"above {low}" if exclusive else f"of at least {low}"
            raise ConfigError(f"trainer.{key}={value}: takes {kind} {bound}{' or auto' if auto else ''}")

    def batch(self, examples: int, full_batch: bool) -> int:
        """Examples per step for a training part of so many examples.

        Raises:
            ConfigError: the batch is bigger than the data, or too small for an optimizer of whole passes.
        """
        if self.batch_size == "auto":
            return examples if full_batch else min(USUAL_BATCH, examples)
        size = int(self.batch_size)
        if size > examples:
            raise ConfigError(
                f"trainer.batch_size={size} is more than the {examples} training examples; use at most {examples}"
            )
        return size

    def plan(self, steps_per_epoch: int, log_every: int) -> Plan:
        """Lengths and intervals in steps."""
        total = self._total_steps(steps_per_epoch)
        if self.evaluate_steps is not None:
            evaluate_every = self.evaluate_steps
        elif self.evaluate_every == "auto":
            epochs = math.ceil(total / steps_per_epoch / MOST_EVALUATIONS) if total else 1
            evaluate_every = epochs * steps_per_epoch
        else:
            evaluate_every = max(1, round(float(self.evaluate_every) * steps_per_epoch))
        return Plan(total, self.budget, evaluate_every, log_every, self.early_stop)

    def _total_steps(self, steps_per_epoch: int) -> int | None:
        limits = [] if self.steps is None else [self.steps]
        if self.epochs == "auto":
            if self.steps is None and self.budget is None:
                limits.append(max(FEWEST_EPOCHS, math.ceil(FEWEST_STEPS / steps_per_epoch)) * steps_per_epoch)
        elif self.epochs is not None:
            limits.append(max(1, round(float(self.epochs) * steps_per_epoch)))
        return min(limits, default=None)

    def goal(self, usual: Monitor, reported: Sequence[str]) -> Monitor:
        """The metric that chooses the best network, among those the task reports."""
        if self.monitor == "auto":
            return usual
        name = str(self.monitor).removeprefix("val/")
        if name not in reported:
            hint = did_you_mean(name, [f"val/{metric}" for metric in reported])
            raise ConfigError(f"trainer.monitor={self.monitor}: there is no such metric{hint}")
        return Monitor(name, HIGHER_IS_BETTER[name])


def read_settings(node: dict[str, Any]) -> Settings:
    """The settings of a composed ``trainer`` group."""
    known = Settings.__dataclass_fields__
    for key in node:
        if key not in known:
            raise ConfigError(f"trainer.{key}: there is no such setting{did_you_mean(str(key), known)}")
    for key in known:
        if key not in node:
            raise ConfigError(f"trainer.{key} is missing from the configuration; leave it as it is, or set it to null")
    return Settings(**dict(node) | {"budget": parse_budget(node["budget"])})


def parse_budget(text: Any) -> float | None:
    """Seconds of ``trainer.budget``; None stays None."""
    return parse_time("trainer.budget", text)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

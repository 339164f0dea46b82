"""A trainer over twelve points and one linear layer, put together by hand: small enough to follow every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.data import Examples
from dlrun.data.batches import Batches
from dlrun.data.facts import Facts
from dlrun.losses import MeanSquaredError
from dlrun.tasks import Monitor
from dlrun.tasks.regression import Regression
from dlrun.training.average import NoAverage
from dlrun.training.callbacks import Callback
from dlrun.training.precision import Precision
from dlrun.training.signals import StopFlag
from dlrun.training.trainer import Plan, Trainer
from dlrun.training.updater import Updater

CPU = torch.device("cpu")
FACTS = Facts("toy", "table", (3,), "regression", targets=("y",), sizes={"train": 10, "val": 2, "test": 0})


class AsIs:
    """Preprocessing that changes nothing."""

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {}


class Halving:
    """A schedule whose factor at step s is 2^-s, and which keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        return 0.5**step

    def observe(self, value: float) -> None:
        self.seen.append(value)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


def batches(count: int, batch_size: int = 4, seed: int = 0) -> Batches:
    """Batches of points x with y = 1 x0 + 2 x1 + 3 x2; the points are a function of the count alone."""
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    targets = inputs @ torch.tensor([[1.0], [2.0], [3.0]])
    return Batches(Examples(inputs, targets), preprocess=AsIs(), batch_size=batch_size, device=CPU, seed=seed)


def plan(total: int | None = 6, every: int = 3, log: int = 2, **more: Any) -> Plan:
    return Plan(total, more.pop("budget", None), every, log, **more)


def make_updater(model: nn.Module, lr: float = 0.1, **more: Any) -> Updater:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
    return Updater(optimizer, torch.amp.GradScaler("cpu", enabled=False), **more)


def make_trainer(*callbacks: Callback, lr: float = 0.1, **changed: Any) -> Trainer:
    """A trainer of ten training and two validation points in batches of four: three steps are an epoch."""
    torch.manual_seed(1)
    model = changed.pop("model", None) or nn.Linear(3, 1)
    task = changed.pop("task", None) or Regression(MeanSquaredError(), FACTS, standardize=False)
    updater = make_updater(model, lr)
    precision = Precision()
    algorithm = Backpropagation(model, task, updater, precision)
    parts: dict[str, Any] = {
        "algorithm": algorithm,
        "take_step": algorithm.step,
        "schedule": Halving(),
        "average": NoAverage(),
        "train": batches(10),
        "val": batches(2),
        "plan": plan(),
        "goal": Monitor("mse", higher_is_better=False),
        "stop": StopFlag(),
    }
    fixed = {"model": model, "task": task, "facts": FACTS, "precision": precision}
    return Trainer(**fixed, **(parts | changed), callbacks=callbacks)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]

"""Exponential moving average of the weights (Polyak and Juditsky 1992, in the exponential form used today)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Average(Protocol):
    """Weights to evaluate with, beside the weights that are trained."""

    def update(self) -> None:
        """Take the weights of the step just done into the average."""
        ...

    def applied(self) -> Any:
        """A context in which the model holds the averaged weights."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The average itself."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        ...


class NoAverage:
    """The weights themselves."""

    def update(self) -> None:
        """Nothing to do."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model as it is."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


class ExponentialAverage:
    """average <- decay * average + (1 - decay) * weights, after every step; buffers are taken as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.weights: list[Tensor] = [p.detach().clone() for p in model.parameters()]

    def update(self) -> None:
        """One step of the average."""
        with torch.no_grad():
            torch._foreach_lerp_(self.weights, [p.detach() for p in self.model.parameters()], 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the average in, and the trained weights back at the end."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, parameter in enumerate(self.model.parameters()):
            parameter.data, self.weights[i] = self.weights[i], parameter.data

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights in the model's order."""
        return {"weights": list(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for mine, saved in zip(self.weights, state["weights"], strict=True):
            mine.copy_(saved)

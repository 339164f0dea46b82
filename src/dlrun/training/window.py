"""What the steps since the last logged row gave to log, not yet read from the device."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from dlrun.errors import DivergedError

Logs = dict[str, Tensor]
REMEDY = "a smaller optimizer.lr, trainer.clip_norm=1 or a schedule with warm-up usually helps"


class Window:
    """Logs of consecutive steps: 0-d tensors that nothing has waited for, the same keys at every step."""

    def __init__(self, logs: Iterable[Logs] = ()) -> None:
        self.logs = list(logs)

    def __len__(self) -> int:
        return len(self.logs)

    def add(self, logs: Iterable[Logs]) -> None:
        """Take the logs of one step or of several."""
        self.logs.extend(logs)

    def clear(self) -> None:
        """Begin the next row."""
        self.logs.clear()

    def means(self, step: int, scaled: bool) -> dict[str, float]:
        """The mean of each value as ``train/name``, checked first."""
        values = self.check(step, scaled)
        return {f"train/{name}": sum(all_of) / len(all_of) for name, all_of in values.items()}

    def check(self, step: int, scaled: bool) -> dict[str, list[float]]:
        """Read everything from the device, once; ``step`` is the step of the last logs.

        Raises:
            DivergedError: a value is NaN or infinite; not where losses are scaled, for such steps are left out.
        """
        if not self.logs:
            return {}
        found = {name: torch.stack([logs[name] for logs in self.logs]).double().tolist() for name in self.logs[0]}
        for name, values in found.items():
            for at, value in enumerate(values, step - len(values) + 1):
                if not scaled and not math.isfinite(value):
                    raise DivergedError(f"train/{name} became {value} at step {at}; {REMEDY}")
        return found

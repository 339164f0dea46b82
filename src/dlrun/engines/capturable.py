"""Optimizers in the form that a recording can hold: rates and counters in tensors on the device.

The form is lent for as long as steps are taken through recordings; between them, for checkpoints and for whoever looks,
an optimizer is what it always is, with plain numbers for rates. What a recording cannot hold is refused with a reason.
Source: ``torch/optim/optimizer.py``, the notes on ``capturable`` and ``fused``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dlrun.engines.recording import Ungraphable
from dlrun.optimizers import GradientDescent, Lion, Muon
from dlrun.training.updater import Updater

OWN = (GradientDescent, Lion, Muon)  # a rate in a tensor serves them as well as a number
FUSED = (torch.optim.SGD, torch.optim.Adagrad)  # their other forms read the rate, or count, on the host
COUNTERS = ("step", "mu_product")


class Lent:
    """The optimizers of the updaters of a run.

    Raises:
        Ungraphable: one of them has no such form.
    """

    def __init__(self, updaters: Iterable[Updater]) -> None:
        self.parts = tuple(updaters)
        for part in self.parts:
            _check(part)
        self._flags: list[dict[str, Any]] = []

    def groups(self) -> Iterator[tuple[dict[str, Any], float]]:
        """All parameter groups, in order, each with its rate before the schedule."""
        for part in self.parts:
            yield from zip(part.optimizer.param_groups, part.base_rates, strict=True)

    def rates(self, factors: Sequence[float]) -> list[list[float]]:
        """The rate of every group in steps with these factors of the schedule."""
        bases = [base for _, base in self.groups()]
        return [[base * factor for base in bases] for factor in factors]

    def lend(self) -> None:
        """Take the form. Counters that an ordinary step had in main memory move to the device."""
        self._flags = []
        for part in self.parts:
            part.optimizer._warned_capturable_if_run_uncaptured = True
            for group in part.optimizer.param_groups:
                flags: dict[str, Any] = {name: group[name] for name in ("capturable", "foreach") if name in group}
                self._flags.append(flags)
                if "capturable" in flags:
                    group["capturable"] = True
                    # One form on all devices: the loop over single tensors reads the rate on the host.
                    group["foreach"] = None if group.get("fused") else True
                    self._move_counters(part.optimizer, group, home=False)

    def set_rates(self, rates: Tensor) -> None:
        """Rates (groups,) on the device, of the step that follows."""
        for (group, _), rate in zip(self.groups(), rates.unbind(), strict=True):
            group["lr"] = rate

    def give_back(self, factor: float) -> None:
        """Be ordinary again, at the rates of the last step, whose factor this is."""
        for (group, base), flags in zip(self.groups(), self._flags, strict=True):
            group["lr"] = base * factor
            group.update(flags)
        for part in self.parts:
            part.factor = factor

    def go_home(self) -> None:
        """Counters back to main memory, where ordinary steps read them; what a broken step left of scaling is gone."""
        for part in self.parts:
            if part.scaled:
                part.scaler._per_optimizer_states.clear()
            for group in part.optimizer.param_groups:
                if "capturable" in group and not (group["capturable"] or group.get("fused")):
                    self._move_counters(part.optimizer, group, home=True)

    @staticmethod
    def _move_counters(optimizer: Optimizer, group: dict[str, Any], home: bool) -> None:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name in COUNTERS:
                if name in state:
                    state[name] = state[name].to("cpu" if home else parameter.device)


def _check(part: Updater) -> None:
    """Refuse what reads a tensor on the host."""
    optimizer = part.optimizer
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if isinstance(optimizer, FUSED) and not group.get("fused"):
            raise Ungraphable(f"{name} reads its rate on the host; optimizer.fused=true does not")
        if not isinstance(optimizer, (*OWN, *FUSED)) and "capturable" not in group:
            raise Ungraphable(f"the optimizer {name} has no form that a graph can hold")
    if part.scaled and not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise Ungraphable(f"with a scaled loss {name} asks the device whether to step; optimizer.fused=true does not")

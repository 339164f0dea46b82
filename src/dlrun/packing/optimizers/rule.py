"""What the packed optimizers share: the numbers and the state of one parameter group in every lane.

K lanes, P columns (all parameters of the group side by side), n parameters. A rule holds three kinds of tensors, all
with one row per lane:

- buffers (K, P): one number per weight, such as a mean of gradients;
- counters (K, n): one number per parameter, as torch keeps them (all n of a lane are equal), such as ``step``;
- columns (K, 1): one number per lane, such as a momentum; they broadcast over the weights.

Formulas follow torch's single-tensor ones operation by operation. What torch computes in Python's floats (1 - beta^t
loses most of its digits in float32) is computed here in float64 columns, at the end of the step before: a compiler that
makes one loop of a step would else compute them anew for each vector of weights (RAdam's took three times as long).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dlrun.packing.flat import Layout, Unpackable

Settings = dict[str, Any]
State = dict[str, Any]
Of = Callable[[Settings], float]

# The loop gives the rates; the rest says how torch computes a step, never what comes out.
LEFT_OUT = frozenset({"params", "param_names", "lr", "initial_lr", "foreach", "fused", "capturable"})


@dataclass(frozen=True)
class Group:
    """One parameter group of every lane, as ordinary optimizers hold it.

    Attributes:
        settings: of each lane, the group's entry in ``param_groups``.
        states: of each lane, the state of each parameter; empty before the first step.
        layout: of the group's parameters.
        like: an empty tensor of the parameters' dtype and device.
    """

    settings: Sequence[Settings]
    states: Sequence[Sequence[State]]
    layout: Layout
    like: Tensor

    def of(self, lanes: Sequence[int]) -> Group:
        """The same group in some of the lanes."""
        settings, states = [self.settings[lane] for lane in lanes], [self.states[lane] for lane in lanes]
        return Group(settings, states, self.layout, self.like)


class Rule(ABC):
    """The step of one parameter group in every lane at once, in place, with no branch on data."""

    # The settings that may differ from lane to lane; all others must agree.
    numbers: ClassVar[frozenset[str]] = frozenset()
    # Whether weight decay shrinks the weights at once, where no setting says so.
    decouples: ClassVar[bool] = False

    def __init__(self, group: Group) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.counters: dict[str, Tensor] = {}
        self.columns: dict[str, Tensor] = {}
        self.group = group
        self._holders: dict[str, list[bool]] = {}
        self._check_equal()
        settings = group.settings[0]
        self.maximize = bool(settings.get("maximize", False))
        self.decoupled = bool(settings.get("decoupled_weight_decay", self.decouples))
        self.decays = self.any(lambda s: s.get("weight_decay", 0.0))
        if self.decays:
            self.column("weight_decay", lambda s: s["weight_decay"], torch.float64 if self.decoupled else None)

    @abstractmethod
    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """Move the weights (K, P) with the gradients (K, P) and the lanes' rates (K, 1), float32 or float64."""

    def direction(self, w: Tensor, g: Tensor, rate: Tensor) -> Tensor:
        """The gradient that is descended, (K, P), with coupled decay; decoupled decay shrinks the weights at once."""
        g = g.neg() if self.maximize else g
        if self.decays and self.decoupled:
            w.mul_((1 - rate * self.columns["weight_decay"]).to(w.dtype))
        elif self.decays:
            g = torch.addcmul(g, w, self.columns["weight_decay"])
        return g

    # --- Reading what the lanes' own optimizers hold

    def any(self, of: Of) -> bool:
        """Whether a setting is other than zero in some lane."""
        return any(float(of(settings)) != 0 for settings in self.group.settings)

    def column(self, name: str, of: Of, dtype: torch.dtype | None = None) -> None:
        """Make column ``name`` from each lane's settings; the weights' dtype unless another is given."""
        like = self.group.like
        values = [[float(of(settings))] for settings in self.group.settings]
        self.columns[name] = torch.tensor(values, dtype=dtype or like.dtype, device=like.device)

    def power(self, name: str, base: Of) -> None:
        """Make columns ``name``, base^t with t the number of the next step, and ``name_base``, its base; float64."""
        self.column(f"{name}_base", base, torch.float64)
        t = self.counters["step"][:, :1].double() + 1
        self.columns[name] = self.columns[f"{name}_base"] ** t

    def advance(self, name: str) -> None:
        """Take a power on to the next step."""
        self.columns[name].mul_(self.columns[f"{name}_base"])

    def ready(self, name: str, value: Tensor, dtype: torch.dtype) -> None:
        """Leave a value (K, 1) in column ``name`` for the next step."""
        if name in self.columns:
            self.columns[name].copy_(value)
        else:
            self.columns[name] = value.to(dtype)

    def buffer(self, key: str, held: Of = lambda _: True) -> None:
        """Make buffer ``key`` from each lane's state, or of zeros where a lane has none.

        ``held``: whether torch's own optimizer would hold it with a lane's settings.
        """
        like, lanes = self.group.like, self.group.settings
        buffer = torch.zeros(len(lanes), self.group.layout.size, dtype=like.dtype, device=like.device)
        for lane, settings in enumerate(lanes):
            values = self._found(lane, key) if held(settings) else None
            if values is not None:
                for view, value in zip(self.group.layout.lane_views(buffer, lane), values, strict=True):
                    view.copy_(value)
        self.buffers[key] = buffer
        self._holders[key] = [bool(held(settings)) for settings in lanes]

    def counter(self, key: str, fill: float = 0.0) -> None:
        """Make counter ``key`` from each lane's state, or of ``fill`` where a lane has none.

        Raises:
            Unpackable: parameters of one lane have made different numbers of steps.
        """
        lanes, n = len(self.group.settings), len(self.group.layout.shapes)
        counter = torch.full((lanes, n), fill, dtype=torch.float32, device=self.group.like.device)
        for lane in range(lanes):
            values = self._found(lane, key)
            if values is None:
                continue
            if any(float(value) != float(values[0]) for value in values):
                raise Unpackable("some parameters of a trial have made fewer steps than others")
            counter[lane] = float(values[0])
        self.counters[key] = counter
        self._holders[key] = [True] * lanes

    def _found(self, lane: int, key: str) -> list[Tensor] | None:
        values = [state.get(key) for state in self.group.states[lane]]
        missing = [value is None for value in values]
        if all(missing):
            return None
        if any(missing):
            raise Unpackable(f"the optimizer holds no {key!r} for some parameters of a trial")
        return values  # type: ignore[return-value]

    def fresh(self, lane: int, key: str) -> bool:
        """Whether a lane's own optimizer holds no ``key`` yet."""
        return self._found(lane, key) is None

    def _check_equal(self) -> None:
        first, *others = self.group.settings
        if first.get("differentiable"):
            raise Unpackable("a differentiable optimizer keeps every step's graph")
        for settings in others:
            for key in first.keys() | settings.keys():
                if key in LEFT_OUT or key in self.numbers:
                    continue
                if first.get(key) != settings.get(key):
                    values = f"{first.get(key)} and {settings.get(key)}"
                    raise Unpackable(f"the trials differ in the optimizer's {key}: {values}")

    # --- Giving it back

    def state_of(self, lane: int) -> list[dict[str, Tensor]]:
        """What torch's own optimizer would hold for each parameter of a lane after its first step, as views."""
        states: list[dict[str, Tensor]] = [{} for _ in self.group.layout.shapes]
        for key, counter in self.counters.items():
            for i, state in enumerate(states):
                state[key] = counter[lane, i]
        for key, buffer in self.buffers.items():
            if self._holders[key][lane]:
                for state, view in zip(states, self.group.layout.lane_views(buffer, lane), strict=True):
                    state[key] = view
        return states

    def part(self, lanes: slice) -> Self:
        """The rule of some neighbouring lanes, looking into this one's tensors."""
        rule = copy(self)
        rule.group = self.group.of(range(len(self.group.settings))[lanes])
        rule.buffers = {key: tensor[lanes] for key, tensor in self.buffers.items()}
        rule.counters = {key: tensor[lanes] for key, tensor in self.counters.items()}
        rule.columns = {key: tensor[lanes] for key, tensor in self.columns.items()}
        return rule

    def keep(self, lanes: Sequence[int]) -> None:
        """Drop all lanes but these."""
        self.group = self.group.of(lanes)
        for tensors in (self.buffers, self.counters, self.columns):
            for key, tensor in tensors.items():
                tensors[key] = tensor[list(lanes)]
        self._holders = {key: [held[lane] for lane in lanes] for key, held in self._holders.items()}

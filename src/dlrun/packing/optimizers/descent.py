"""Gradient descent, with momentum and by its sign, over stacked lanes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlrun.packing.optimizers.rule import Group, Rule, Settings


class GradientDescent(Rule):
    """``dlrun.optimizers.GradientDescent``: w <- w - rate g."""

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        w.addcmul_(g, rate.to(w.dtype), value=-1)


class SGD(Rule):
    """``torch.optim.SGD``: m <- momentum m + (1 - dampening) g, but m <- g at a lane's first step; w <- w - rate m."""

    numbers: ClassVar[frozenset[str]] = frozenset({"momentum", "dampening", "weight_decay"})

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.nesterov = bool(group.settings[0]["nesterov"])
        self.moves_on = self.any(momentum_of)
        if not self.moves_on:
            return
        self.buffer("momentum_buffer", held=momentum_of)
        self.column("momentum", momentum_of)
        # torch ignores the dampening of a lane without momentum.
        self.dampened = self.any(lambda s: s["dampening"] if momentum_of(s) else 0.0)
        if self.dampened:
            self.column("later", lambda s: 1 - s["dampening"] if momentum_of(s) else 1.0)
            fresh = [[self.fresh(lane, "momentum_buffer")] for lane in range(len(group.settings))]
            later = self.columns["later"]
            self.columns["share"] = torch.where(torch.tensor(fresh, device=later.device), 1.0, later)

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        g = self.direction(w, g, rate)
        if self.moves_on:
            m, momentum = self.buffers["momentum_buffer"], self.columns["momentum"]
            m.mul_(momentum)
            if self.dampened:
                m.addcmul_(g, self.columns["share"])
                self.columns["share"].copy_(self.columns["later"])
            else:
                m.add_(g)
            g = torch.addcmul(g, m, momentum) if self.nesterov else m
        w.addcmul_(g, rate.to(w.dtype), value=-1)


def momentum_of(settings: Settings) -> float:
    """A lane's momentum."""
    return float(settings["momentum"])


class Lion(Rule):
    """``dlrun.optimizers.Lion``: the sign of an interpolated momentum, with decoupled decay."""

    numbers: ClassVar[frozenset[str]] = frozenset({"betas", "weight_decay"})

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.buffer("momentum")
        self.column("beta1", lambda s: s["betas"][0])
        self.column("gain", lambda s: 1 - s["betas"][1])

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        m = self.buffers["momentum"]
        move = torch.lerp(g, m, self.columns["beta1"]).sign_()
        if self.decays:
            move.addcmul_(w, self.columns["weight_decay"])
        w.addcmul_(move, rate.to(w.dtype), value=-1)
        m.lerp_(g, self.columns["gain"])

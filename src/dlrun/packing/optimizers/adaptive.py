"""Rates per weight from squares of gradients, over stacked lanes: Adagrad, Adadelta, RMSprop."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlrun.packing.optimizers.descent import momentum_of
from dlrun.packing.optimizers.rule import Group, Rule


class Adagrad(Rule):
    """``torch.optim.Adagrad``: the sum of squares from the first step on, the rate falling with lr_decay."""

    numbers: ClassVar[frozenset[str]] = frozenset({"lr_decay", "weight_decay", "eps", "initial_accumulator_value"})

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.counter("step")
        self.buffer("sum")  # there from the start: initial_accumulator_value
        self.column("eps", lambda s: s["eps"])
        self.column("lr_decay", lambda s: s["lr_decay"], torch.float64)
        self._prepare()

    def _prepare(self) -> None:
        done = self.counters["step"][:, :1].double()
        self.ready("factor", 1 / (1 + done * self.columns["lr_decay"]), torch.float64)

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        g = self.direction(w, g, rate)
        total = self.buffers["sum"].addcmul_(g, g)
        root = total.sqrt().add_(self.columns["eps"])
        w.addcmul_(torch.div(g, root, out=root), (rate * self.columns["factor"]).to(w.dtype), value=-1)
        self.counters["step"].add_(1)
        self._prepare()


class Adadelta(Rule):
    """``torch.optim.Adadelta``: steps in the weights' own units, from running means of squares."""

    numbers: ClassVar[frozenset[str]] = frozenset({"rho", "eps", "weight_decay"})

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.counter("step")
        self.buffer("square_avg")
        self.buffer("acc_delta")
        self.column("eps", lambda s: s["eps"])
        self.column("rho", lambda s: s["rho"])
        self.column("gain", lambda s: 1 - s["rho"])

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        square, moved, eps = self.buffers["square_avg"], self.buffers["acc_delta"], self.columns["eps"]
        self.counters["step"].add_(1)
        g = self.direction(w, g, rate)
        add_square(square, g, self.columns["rho"], self.columns["gain"])
        std = square.add(eps).sqrt_()
        move = moved.add(eps).sqrt_().div_(std).mul_(g)
        add_square(moved, move, self.columns["rho"], self.columns["gain"])
        w.addcmul_(move, rate.to(w.dtype), value=-1)


class RMSprop(Rule):
    """``torch.optim.RMSprop``: the gradient over the root of its running mean square, plain or centered."""

    numbers: ClassVar[frozenset[str]] = frozenset({"alpha", "eps", "weight_decay", "momentum"})

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.centered = bool(group.settings[0]["centered"])
        self.moves_on = self.any(momentum_of)
        self.counter("step")
        self.buffer("square_avg")
        if self.moves_on:
            self.buffer("momentum_buffer", held=momentum_of)
            self.column("momentum", momentum_of)
        if self.centered:
            self.buffer("grad_avg")
        self.column("alpha", lambda s: s["alpha"])
        self.column("gain", lambda s: 1 - s["alpha"])
        self.column("eps", lambda s: s["eps"])

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        self.counters["step"].add_(1)
        g = self.direction(w, g, rate)
        square, gain = self.buffers["square_avg"], self.columns["gain"]
        add_square(square, g, self.columns["alpha"], gain)
        if self.centered:
            mean = self.buffers["grad_avg"].lerp_(g, gain)
            root = torch.addcmul(square, mean, mean, value=-1).sqrt_()
        else:
            root = square.sqrt()
        root.add_(self.columns["eps"])
        if self.moves_on:
            move = self.buffers["momentum_buffer"].mul_(self.columns["momentum"]).addcdiv_(g, root)
        else:
            move = torch.div(g, root, out=root)
        w.addcmul_(move, rate.to(w.dtype), value=-1)


def add_square(mean: Tensor, g: Tensor, keep: Tensor, gain: Tensor) -> None:
    """Take g^2 into a running mean of squares: mean <- keep mean + gain g^2.

    ``lerp`` would be one pass less, but turns a mean that once overflowed into nan where torch's own stays infinite.
    """
    mean.mul_(keep).addcmul_(g * gain, g)

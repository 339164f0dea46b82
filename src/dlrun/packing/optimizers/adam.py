"""Adam and its kin over stacked lanes: Adam and AdamW, NAdam, RAdam."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlrun.packing.optimizers.adaptive import add_square
from dlrun.packing.optimizers.rule import Group, Rule

# From this many weights per lane on, on a CPU, one fused kernel per lane (one pass over memory, 7 us a call) beats
# elementwise ones over all lanes: on one thread and 16 lanes of 12,730 weights 215 us against 320, of 101,770 1.2 ms
# against 3.1; of 1,000 it loses with 125 us against 69.
FUSED_FROM = 5000


class Moments(Rule):
    """Running means of gradients and of their squares, and what corrects both for their start."""

    numbers: ClassVar[frozenset[str]] = frozenset({"betas", "eps", "weight_decay"})
    # The names under which an optimizer keeps the two means.
    mean: ClassVar[str] = "exp_avg"
    square: ClassVar[str] = "exp_avg_sq"

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.counter("step")
        self.buffer(self.mean)
        self.buffer(self.square)
        self.column("gain1", lambda s: 1 - s["betas"][0])
        self.column("beta2", lambda s: s["betas"][1])
        self.column("gain2", lambda s: 1 - s["betas"][1])
        self.column("eps", lambda s: s["eps"])
        self.power("power1", lambda s: s["betas"][0])
        self.power("power2", lambda s: s["betas"][1])
        self.prepare(group.like.dtype)

    def prepare(self, dtype: torch.dtype) -> None:
        """Leave ready what corrects the next step's means for their start: 1 / (1 - beta1^t) and sqrt(1 - beta2^t)."""
        self.ready("factor", 1 / (1 - self.columns["power1"]), torch.float64)
        self.ready("root", (1 - self.columns["power2"]).sqrt(), dtype)

    def count(self) -> None:
        """One step is done."""
        self.counters["step"].add_(1)
        self.advance("power1")
        self.advance("power2")
        self.prepare(self.buffers[self.mean].dtype)

    def take(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Take a gradient (K, P) into both means, which are returned."""
        mean, square = self.buffers[self.mean], self.buffers[self.square]
        mean.lerp_(g, self.columns["gain1"])
        add_square(square, g, self.columns["beta2"], self.columns["gain2"])
        return mean, square


class Adam(Moments):
    """``torch.optim.Adam`` and ``AdamW``, with or without amsgrad."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.amsgrad = bool(group.settings[0]["amsgrad"])
        if self.amsgrad:
            self.buffer("max_exp_avg_sq")

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        if w.is_cpu and w.shape[1] >= FUSED_FROM and not torch.compiler.is_compiling():
            self._fused(w, g, rate)
            return
        mean, square = self.take(self.direction(w, g, rate))
        if self.amsgrad:
            largest = self.buffers["max_exp_avg_sq"]
            square = torch.maximum(largest, square, out=largest)
        root = square.sqrt().div_(self.columns["root"]).add_(self.columns["eps"])
        w.addcmul_(torch.div(mean, root, out=root), (rate * self.columns["factor"]).to(w.dtype), value=-1)
        self.count()

    def _fused(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """A step lane by lane with torch's fused kernel; its numbers are floats, so on a CPU only."""
        self.count()  # the kernel counts from 1
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        mean, square = self.buffers[self.mean].unbind(), self.buffers[self.square].unbind()
        largest = self.buffers["max_exp_avg_sq"].unbind() if self.amsgrad else ()
        steps, weights, gradients = self.counters["step"][:, 0].unbind(), w.unbind(), g.unbind()
        for i, (settings, lr) in enumerate(zip(self.group.settings, rate[:, 0].tolist(), strict=True)):
            beta1, beta2 = settings["betas"]
            lane = slice(i, i + 1)
            kernel(
                weights[lane], gradients[lane], mean[lane], square[lane], largest[lane], steps[lane],
                lr=lr, beta1=beta1, beta2=beta2, weight_decay=settings["weight_decay"], eps=settings["eps"],
                amsgrad=self.amsgrad, maximize=self.maximize,
            )  # fmt: skip


class NAdam(Moments):
    """``torch.optim.NAdam``: Adam with Nesterov momentum, whose strength mu rises from step to step."""

    numbers: ClassVar[frozenset[str]] = Moments.numbers | {"momentum_decay"}

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.counter("mu_product", 1.0)
        self.column("beta1", lambda s: s["betas"][0], torch.float64)
        self.power("warmth", lambda s: 0.96 ** s["momentum_decay"])
        self._prepare_mu()

    def _prepare_mu(self) -> None:
        beta1, warmth = self.columns["beta1"], self.columns["warmth"]
        mu = beta1 * (1 - 0.5 * warmth)
        mu_next = beta1 * (1 - 0.5 * warmth * self.columns["warmth_base"])
        product = (self.counters["mu_product"][:, :1] * mu.float()).double()
        self.ready("mu", mu, torch.float32)
        self.ready("of_gradient", (1 - mu) / (1 - product), torch.float64)
        self.ready("of_mean", mu_next / (1 - product * mu_next), torch.float64)

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        g = self.direction(w, g, rate)
        mean, square = self.take(g)
        root = square.sqrt().div_(self.columns["root"]).add_(self.columns["eps"])
        w.addcmul_(g / root, (rate * self.columns["of_gradient"]).to(w.dtype), value=-1)
        w.addcmul_(torch.div(mean, root, out=root), (rate * self.columns["of_mean"]).to(w.dtype), value=-1)
        self.counters["mu_product"].mul_(self.columns["mu"])
        self.count()
        self.advance("warmth")
        self._prepare_mu()


class RAdam(Moments):
    """``torch.optim.RAdam``: momentum alone while the variance is unsure, then Adam with a rectified rate."""

    def prepare(self, dtype: torch.dtype) -> None:
        """Also leave ready whether the variance is sure, and the factor of the rate if it is."""
        super().prepare(dtype)
        t, power, base = self.counters["step"][:, :1].double() + 1, self.columns["power2"], self.columns["power2_base"]
        rho_inf = 2 / (1 - base) - 1
        rho = rho_inf - 2 * t * power / (1 - power)
        # Not a number where it is not used: below a length of 4 or a rho_inf of 4.
        rectified = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt()
        self.ready("sure", rho > 5, torch.bool)
        self.ready("adapted", self.columns["factor"] * rectified * (1 - power).sqrt(), torch.float64)

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        plain = (rate * self.columns["factor"]).to(w.dtype)
        adapted = (rate * self.columns["adapted"]).to(w.dtype)
        mean, square = self.take(self.direction(w, g, rate))
        root = square.sqrt().add_(self.columns["eps"])
        w.addcmul_(mean, torch.where(self.columns["sure"], torch.div(adapted, root, out=root), plain), value=-1)
        self.count()

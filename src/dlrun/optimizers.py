"""The optimizers torch lacks; the others are torch.optim's, named by ``configs/optimizer/*.yaml``.

Written out as the papers have them, one parameter after the other. A group's ``lr`` may be a float or a 0-d tensor, and
nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from dlrun.errors import ConfigError

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise ConfigError(f"optimizer.{name}={value} must be at least {low:g} and below {high:g}")


def _with_closure(closure: Callable[[], float] | None) -> float | None:
    """The closure's loss, computed with gradients; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class GradientDescent(Optimizer):
    """The book's rule, w <- w - lr grad J(w), with J over the whole training set.

    Attributes:
        full_batch: true: a trainer gives it every training example at each step.

    Args:
        params: the parameters.
        lr: the learning rate.
    """

    full_batch = True

    def __init__(self, params: Parameters, lr: float = 0.5) -> None:
        _check("lr", lr, 0, float("inf"))
        super().__init__(params, {"lr": lr})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step against the gradient."""
        loss = _with_closure(closure)
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    w.sub_(group["lr"] * w.grad)
        return loss


class Lion(Optimizer):
    """The sign of an interpolated momentum: every weight moves by the rate, up or down.

    X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, program 1:
    c = b1 m + (1 - b1) g; w <- w - lr (sign(c) + decay w); m <- b2 m + (1 - b2) g.

    Args:
        params: the parameters.
        lr: the learning rate; a third to a tenth of Adam's.
        betas: b1 of the step and b2 of the momentum.
        weight_decay: decoupled decay.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        _check("lr", lr, 0, float("inf"))
        _check("betas", betas[0], 0, 1)
        _check("betas", betas[1], 0, 1)
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step."""
        loss = _with_closure(closure)
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                m = state.setdefault("momentum", torch.zeros_like(w))
                direction = torch.lerp(w.grad, m, b1).sign_()
                w.sub_(group["lr"] * (direction + group["weight_decay"] * w))
                m.lerp_(w.grad, 1 - b2)
        return loss


class Muon(Optimizer):
    """Momentum whose matrices are made orthogonal before the step; AdamW for the vectors.

    K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024:
    m <- mu m + g; u = g + mu m (Nesterov); w <- (1 - lr decay) w - lr scale orthogonal(u).
    Convolutions count as matrices of (maps, everything else); parameters with fewer than two dimensions go by AdamW.
    Differs from the source in: 1. ``orthogonal`` runs in the weights' own precision, where it has bfloat16; 2. the
    first and the last layer are treated as all others, where it gives them to AdamW.

    Args:
        params: the parameters.
        lr: the rate of the matrices.
        momentum: mu.
        weight_decay: decoupled decay of both kinds.
        adam_lr: the rate of the vectors.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.005,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adam_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        _check("lr", lr, 0, float("inf"))
        _check("adam_lr", adam_lr, 0, float("inf"))
        _check("momentum", momentum, 0, 1)
        _check("betas", betas[0], 0, 1)
        _check("betas", betas[1], 0, 1)
        shared = {"momentum": momentum, "weight_decay": weight_decay, "betas": tuple(betas), "eps": eps}
        # One group each, so that a schedule scales both rates from their own bases.
        tensors = [p[1] if isinstance(p, tuple) else p for p in params]
        if any(isinstance(p, dict) for p in tensors):
            raise ConfigError("optimizer=muon makes its own parameter groups and takes plain parameters only")
        matrices = [p for p in tensors if isinstance(p, Tensor) and p.dim() >= 2]
        vectors = [p for p in tensors if isinstance(p, Tensor) and p.dim() < 2]
        groups = [{"params": matrices, "lr": lr, "matrix": True}, {"params": vectors, "lr": adam_lr, "matrix": False}]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, **shared})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step."""
        loss = _with_closure(closure)
        for group in self.param_groups:
            move = self._move_matrix if group["matrix"] else self._move_vector
            for w in group["params"]:
                if w.grad is not None:
                    w.mul_(1 - group["lr"] * group["weight_decay"])
                    w.sub_(group["lr"] * move(self.state[w], w.grad, group))
        return loss

    @staticmethod
    def _move_matrix(state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        m = state.setdefault("momentum", torch.zeros_like(grad))
        m.mul_(group["momentum"]).add_(grad)
        u = grad.add(m, alpha=group["momentum"]).flatten(1)
        scale = max(1.0, u.shape[0] / u.shape[1]) ** 0.5
        direction: Tensor = orthogonal(u).view_as(grad) * scale
        return direction

    @staticmethod
    def _move_vector(state: dict[str, Tensor], grad: Tensor, group: dict[str, Any]) -> Tensor:
        b1, b2 = group["betas"]
        step = state.setdefault("step", torch.zeros((), device=grad.device))
        m = state.setdefault("mean", torch.zeros_like(grad))
        v = state.setdefault("square", torch.zeros_like(grad))
        step.add_(1)
        m.lerp_(grad, 1 - b1)
        v.lerp_(grad.square(), 1 - b2)
        direction: Tensor = (m / _grown(b1, step)) / ((v / _grown(b2, step)).sqrt() + group["eps"])
        return direction


def _grown(decay: float, step: Tensor) -> Tensor:
    """1 - decay^step, without the digits that the subtraction would cost in float32."""
    return -torch.expm1(step * math.log(max(decay, 1e-38)))


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """The matrix (rows, columns) with all singular values brought near 1 by Newton-Schulz iterations.

    X <- a X + (b A + c A^2) X with A = X X', quintic coefficients of Jordan et al. 2024: values end within about
    0.7 to 1.2, which serves as well as 1 and takes fewer rounds.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x

"""How any algorithm moves weights: zero the gradients, backward, clip, step - for one optimizer or for several.

Clipping, loss scaling and rate schedules live here, so they work for every algorithm alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dlrun.training.layout import like
from dlrun.training.lean import LeanStep, backward, without_compiler
from dlrun.training.skippable import Skippable, begun

Clip = Callable[[list[nn.Parameter]], object]


@dataclass(frozen=True)
class ClipByNorm:
    """Scale the whole gradient down to a norm of at most ``largest`` (Pascanu et al. 2013, algorithm 1)."""

    largest: float

    def __call__(self, parameters: list[nn.Parameter]) -> object:
        """Clip the gradients in place."""
        return nn.utils.clip_grad_norm_(parameters, self.largest)


@dataclass(frozen=True)
class ClipByValue:
    """Cut every gradient entry to [-largest, largest]."""

    largest: float

    def __call__(self, parameters: list[nn.Parameter]) -> object:
        """Clip the gradients in place."""
        return nn.utils.clip_grad_value_(parameters, self.largest)


class Moves(Protocol):
    """What the trainer sees of an ``Updater`` or of several."""

    parameters: list[nn.Parameter]

    @property
    def rate(self) -> float:
        """The learning rate as it stands."""
        ...

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled, so that a step may be left out."""
        ...

    def set_factor(self, factor: float) -> None:
        """Multiply every base rate by ``factor``."""
        ...

    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of the last step, after clipping; 0-d."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        ...


class Updater:
    """One optimizer with the mechanics around it.

    Args:
        optimizer: any torch optimizer.
        scaler: loss scaler; a disabled one is inert.
        clips: applied in order to the true (unscaled) gradients before each step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clips: Iterable[Clip] = ()
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self.clips = tuple(clips)
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.factor = 1.0
        self.exchange: Callable[[Sequence[Tensor]], None] | None = None  # averages over the processes of the run
        # A disabled scaler only forwards to the optimizer, whose step has a quicker form.
        lean = LeanStep(optimizer)
        self._apply = self._scaled_step if scaler.is_enabled() else lean
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        if scaler.is_enabled() and fused:
            fused = begun(optimizer)
        self._scaled: Any = optimizer if fused else Skippable(optimizer, lean)

    @property
    def rate(self) -> float:
        """The first group's learning rate as it stands."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled, so that a step may be left out."""
        return self.scaler.is_enabled()

    def set_factor(self, factor: float) -> None:
        """Multiply every group's base rate by ``factor``."""
        if factor == self.factor:
            return
        self.factor = factor
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor

    def zero_grad(self) -> None:
        """Forget the last gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Gradients of a 0-d loss by the chain rule, added to those that are there."""
        backward(self.scaler.scale(loss) if self.scaler.is_enabled() else loss)

    def step(self) -> None:
        """Clip, then move the weights against the gradient."""
        if self.exchange is not None:  # before the scaler looks: what overflows on one process counts on all
            self.exchange([p.grad for p in self.parameters if p.grad is not None])
        if self.clips:
            self.scaler.unscale_(self._scaled)
            for clip in self.clips:
                clip(self.parameters)
        self._apply()

    def share(self, directions: Sequence[Tensor]) -> None:
        """Average over the processes of the run, in place, what an algorithm moves weights by on its own."""
        if self.exchange is not None:
            self.exchange(directions)

    def _scaled_step(self) -> None:
        self.scaler.step(self._scaled)
        self.scaler.update()

    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of the last step, after clipping; 0-d."""
        return _norm([p.grad for p in self.parameters if p.grad is not None])

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler state."""
        with without_compiler():
            state = self.optimizer.state_dict()
        return {"optimizer": state, "scaler": self.scaler.state_dict(), "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        with without_compiler():
            self.optimizer.load_state_dict(state["optimizer"])
        for parameter, held in self.optimizer.state.items():  # fused kernels take both to lie alike
            held.update({name: like(value, parameter) for name, value in held.items() if isinstance(value, Tensor)})
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.factor = state["factor"]


class Updaters:
    """Several updaters, each with its own optimizer, as the trainer sees them: one rate, one gradient.

    Args:
        parts: the first one's rate is the one that is shown.
    """

    def __init__(self, parts: Sequence[Updater]) -> None:
        self.parts = tuple(parts)
        self.parameters: list[nn.Parameter] = [p for part in parts for p in part.parameters]

    @property
    def rate(self) -> float:
        """The first one's learning rate as it stands."""
        return self.parts[0].rate

    @property
    def scaled(self) -> bool:
        """Whether any of them scales its loss."""
        return any(part.scaled for part in self.parts)

    def set_factor(self, factor: float) -> None:
        """Multiply every base rate by ``factor``."""
        for part in self.parts:
            part.set_factor(factor)

    def gradient_norm(self) -> Tensor:
        """Norm of all gradients together, 0-d."""
        return _norm([p.grad for p in self.parameters if p.grad is not None])

    def state_dict(self) -> dict[str, Any]:
        """The state of each, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def _norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all together, 0-d, to the bits of ``get_total_norm``.

    That one sorts them by device and format first, which takes longer than the norm itself of a small network.
    """
    if not gradients or any(type(each) is not Tensor or each.dtype != gradients[0].dtype for each in gradients):
        return nn.utils.get_total_norm(gradients)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm

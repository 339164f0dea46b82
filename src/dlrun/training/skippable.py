"""A step of any optimizer that the loss scaler of float16 can have left out without asking the host.

Where a scaled gradient overflows the step must not be made. torch's fused kernels see that for themselves; for every
other optimizer ``GradScaler.step`` reads a flag from the device before each step, and everything waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Skippable:
    """An optimizer as ``GradScaler`` sees it: one that handles overflow itself.

    The step is made in any case; then weights and state are put back where a gradient was not finite. That takes a copy
    of both and no waiting. Until an optimizer has made its state, and where a part of the state is not on the device of
    the weights (torch's step counters, unless ``capturable``), the flag is read as torch does it.

    Args:
        optimizer: any without a fused step.
        move: takes its step.

    Attributes:
        found_inf: 0-d, above 0 where a gradient is not finite; given by the scaler for the time of a step.
        grad_scale: 0-d, what the gradients are multiplied by; None where they are unscaled already; given likewise.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor
    grad_scale: Tensor | None

    def __init__(self, optimizer: Optimizer, move: Callable[[], object]) -> None:
        self.optimizer, self.move = optimizer, move
        self._moved: set[int] = set()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's."""
        return self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights, or leave all as it is."""
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.grad_scale is not None:
            torch._foreach_div_([p.grad for p in moving], self.grad_scale)
        held = self._held(moving)
        if held is None:
            if not self.found_inf.item():
                self.move()
                self._moved = {id(p) for p in moving}
            return
        before = [tensor.clone() for tensor in held]
        self.move()
        overflown = self.found_inf > 0
        for tensor, old in zip(held, before, strict=True):
            tensor.copy_(torch.where(overflown, old, tensor))

    def _held(self, moving: list[Tensor]) -> list[Tensor] | None:
        """All that a step writes to; None where that is not known yet, or not all on the device."""
        state = self.optimizer.state
        held: list[Any] = list(moving)
        for parameter in moving:
            own = state.get(parameter, {})
            if not own and id(parameter) not in self._moved:
                return None
            held += own.values()
        device = self.found_inf.device
        return held if all(isinstance(value, Tensor) and value.device == device for value in held) else None


def begun(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer can have its first step left out, after momentum of SGD has been begun at zero.

    torch's fused SGD takes unwritten memory for momentum and fills it in its first step, or leaves it as it is where
    that step overflows (2.11 to 2.15). From zero the first step is the same to the bit, unless it is dampened.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return True
    groups = [group for group in optimizer.param_groups if group["momentum"]]
    if any(group["dampening"] for group in groups):
        return False
    for group in groups:
        for parameter in group["params"]:
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
    return True

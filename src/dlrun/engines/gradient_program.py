"""Loss, logs and gradients of a batch as one compiled program.

Autograd's own way, compiled, costs more than it saves for a small network: two programs and the engine between them.
Here the backward pass is written out by ``torch.func`` inside of the function that is compiled, so a step is one call.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.tasks import Batch, Logs
from dlrun.training.randomness import random_state, restore_random_state

# Of a gradient's largest entry: rounding of sums in another order, in 32 bits and in 16.
ROUNDING, COARSE, LITTLE = 1e-3, 0.1, 1e-4
# A program is valid as long as these hold; of the several hundred things that the compiler asks before each call by
# default, most are about the classes and functions around, which do not change while a network is trained, and take
# a tenth of a small step. Numbers, flags and shapes are asked.
ASKED = {"CONSTANT_MATCH", "EQUALS_MATCH", "ID_MATCH", "TENSOR_MATCH", "SEQUENCE_LENGTH", "GRAD_MODE", "SHAPE_ENV"}


class NotTheSameError(RuntimeError):
    """The program computes something else than the algorithm's own forward and backward pass."""


class GradientProgram:
    """Fills the parameters' ``grad`` for a batch, as zero_grad, forward and backward do.

    The first batch is also taken through the algorithm's own passes: which parameters they reach is found out so, and,
    unless random numbers were drawn, that the program's results are theirs.

    Args:
        algorithm: whose ``forward`` gives loss and logs.
        batch: the first.
        options: the compiler's.

    Attributes:
        proved: whether it has run once to its end.
    """

    def __init__(self, algorithm: Backpropagation, batch: Batch, options: dict[str, Any]) -> None:
        self.updater = algorithm.updater
        self.first: _Reference | None = _Reference(algorithm, batch)
        named = {id(p): name for name, p in algorithm.model.named_parameters()}
        self.weights = [p for p, g in zip(self.updater.parameters, self.first.gradients, strict=True) if g is not None]
        self.without = [p for p, g in zip(self.updater.parameters, self.first.gradients, strict=True) if g is None]
        self.slopes = [torch.zeros_like(p) for p in self.weights]
        self.buffers = dict(algorithm.model.named_buffers())
        self.one = torch.ones((), device=self.weights[0].device)
        self.proved = False
        program = _program(_Loss(algorithm), [named[id(p)] for p in self.weights])
        options = {**options, "guard_filter_fn": _asked}
        self.compiled = torch.compile(program, dynamic=False, fullgraph=True, options=options)

    def __call__(self, batch: Batch) -> Logs:
        """The gradients of a batch; returns the logs."""
        for parameter, slope in zip(self.weights, self.slopes, strict=True):
            parameter.grad = slope
        for parameter in self.without:
            parameter.grad = None
        scale = self.updater.scaler.scale(self.one)
        with torch.no_grad():  # it has its own gradient inside
            logs: Logs = self.compiled(self.weights, self.slopes, self.buffers, *batch, scale)
        if self.first is not None:
            self.first.check(self.slopes, self.buffers, logs, scale)
            self.first = None
        self.proved = True
        return logs


def _program(loss: _Loss, names: list[str]) -> Any:
    def gradient(
        weights: list[Tensor], slopes: list[Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor, scale: Tensor
    ) -> Logs:
        # All tensors are arguments: what is written in place, as batch statistics are, may not come from outside.
        def scaled(weights: list[Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, Logs]:
            tensors = {f"model.{name}": weight for name, weight in zip(names, weights, strict=True)}
            tensors |= {f"model.{name}": buffer for name, buffer in buffers.items()}
            value, logs = functional_call(loss, tensors, ((x, y),))
            return value * scale, logs

        gradients, (_, logs) = grad_and_value(scaled, has_aux=True)(weights, buffers)
        for slope, gradient in zip(slopes, gradients, strict=True):
            slope.copy_(gradient)
        return {name: value.detach() for name, value in logs.items()}

    # The compiler keeps programs by the code of the function, and tells them apart by what it asks before a call. Of
    # that little is left here, so each program gets code of its own: another network's is never taken for it.
    gradient.__code__ = gradient.__code__.replace(co_name=f"gradient_{next(_numbers)}")
    return gradient


_numbers = count()


class _Loss(nn.Module):
    """An algorithm's forward pass as a module, so that ``functional_call`` reaches its network."""

    def __init__(self, algorithm: Backpropagation) -> None:
        super().__init__()
        self.model = algorithm.model
        self._algorithm = [algorithm]  # in a list: no part of the module

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Loss (0-d) and logs."""
        return self._algorithm[0].forward(batch)


class _Reference:
    """What the algorithm's own passes make of a batch; buffers and random streams are put back afterwards."""

    def __init__(self, algorithm: Backpropagation, batch: Batch) -> None:
        self.model = algorithm.model
        before, streams = self._copied(), random_state()
        try:
            with torch.enable_grad():
                loss, self.logs = algorithm.forward(batch)
            self.gradients = torch.autograd.grad(loss, algorithm.updater.parameters, allow_unused=True)
            drawn = random_state()
            self.draws = any(not torch.equal(a, b) for a, b in zip(_torch(streams), _torch(drawn), strict=True))
            self.after = self._copied()
        finally:
            self._put_back(before)
            restore_random_state(streams)
        self.before = before
        self.tolerance = COARSE if torch.is_autocast_enabled(loss.device.type) or _is_low(algorithm) else ROUNDING

    def check(self, slopes: list[Tensor], buffers: dict[str, Tensor], logs: Logs, scale: Tensor) -> None:
        """Compare; where a difference is found the buffers are put back and NotTheSameError is raised."""
        if self.draws or not all(bool(value.isfinite().all()) for value in (*self.logs.values(), *slopes)):
            return  # other numbers were drawn; or the run diverges, or float16's first scale was too large
        own = [gradient for gradient in self.gradients if gradient is not None]
        near = (
            self._near(own, [slope / scale for slope in slopes])
            and self._near([self.logs[name] for name in self.logs], [logs[name] for name in self.logs])
            and self._near([self.after[name] for name in buffers], list(buffers.values()))
        )
        if not near:
            self._put_back(self.before)
            raise NotTheSameError("the program does not compute what the network computes")

    def _near(self, wanted: list[Tensor], found: list[Tensor]) -> bool:
        """Whether each tensor is the other's, up to a share of its largest entry, or a little of all tensors'."""
        if not wanted:
            return True
        sizes = torch.stack([tensor.double().abs().amax() for tensor in wanted if tensor.numel()])
        floor = LITTLE * sizes.max()  # a gradient that is zero but for rounding, as of a bias before normalisation
        return all(
            bool(((a.double() - b.double()).abs() <= self.tolerance * a.double().abs().amax() + floor).all())
            for a, b in zip(wanted, found, strict=True)
            if a.numel()
        )

    def _copied(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    @torch.no_grad()
    def _put_back(self, before: dict[str, Tensor]) -> None:
        for name, buffer in self.model.named_buffers():
            buffer.copy_(before[name])


def _torch(state: dict[str, Any]) -> list[Tensor]:
    return [state["torch"], *state["cuda"]]


def _is_low(algorithm: Backpropagation) -> bool:
    return isinstance(algorithm.autocast, torch.autocast)


def _asked(guards: Any) -> list[bool]:
    return [guard.guard_type in ASKED and not guard.is_global for guard in guards]

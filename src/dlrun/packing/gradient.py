"""The gradient of every lane's loss in one forward and one backward pass.

Shape legend: K lanes, B examples of a batch, P trainable parameters of a lane.

``vmap`` turns the task's loss on one network into the losses (K,) of K networks. Each depends on its own lane's
parameters alone, so the gradient of their sum is every lane's own gradient.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dlrun.models.recurrent import write_out
from dlrun.packing.flat import Unpackable
from dlrun.packing.lifted import Lifted
from dlrun.packing.numbers import differing
from dlrun.packing.randomness import Plan, Replay, rehearse
from dlrun.packing.stack import Stack
from dlrun.tasks import Batch, Logs

logger = logging.getLogger(__name__)

# A lane's first loss against that of its network alone: rounding of another order of the same sums.
TOLERANCE = 1e-4
COMPILED_AT = 20  # batches of one form after which it is compiled: the last batch of an epoch may never be worth it


@dataclass(frozen=True)
class PackedBatch:
    """A batch of every lane.

    Attributes:
        inputs: (B, ...) where all lanes have the same batch, else (K, B, ...).
        targets: beside them.
        shared: whether all lanes have the same.
    """

    inputs: Tensor
    targets: Tensor
    shared: bool

    @property
    def tensors(self) -> Batch:
        """Of all lanes."""
        return self.inputs, self.targets

    def of(self, lane: int) -> Batch:
        """One lane's batch."""
        return (self.inputs, self.targets) if self.shared else (self.inputs[lane], self.targets[lane])

    @property
    def form(self) -> tuple[Any, ...]:
        """What has to be equal for one plan, or one compiled program, to serve two batches."""
        return self.shared, self.inputs.shape, self.targets.shape


class PackedGradient:
    """Losses and gradients of all lanes.

    Args:
        algorithms: of each lane, with ``model``, ``task`` and ``forward(batch) -> (loss, logs)``; they are not changed.
        names: of the trainable parameters, in the stack's order.

    Raises:
        Unpackable: the lanes differ in more than numbers.
    """

    def __init__(self, algorithms: Sequence[Any], names: Sequence[str]) -> None:
        self.algorithms = list(algorithms)
        numbers = differing([(algorithm.model, algorithm.task) for algorithm in algorithms])
        template = copy.copy(algorithms[0])
        template.model, template.task = copy.deepcopy(template.model), copy.deepcopy(template.task)
        write_out(template.model)
        self.lifted = Lifted((template.model, template.task), numbers)
        self.values = self.lifted.values(next(template.model.parameters()).device)
        self.names = [f"model.{name}" for name in names]
        self.loss = _Loss(template)
        self.compiles = False
        self.plans: dict[tuple[Any, ...], Plan] = {}
        self.programs: dict[tuple[Any, ...], Any] = {}
        self.seen: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, stack: Stack, batch: PackedBatch, generators: Sequence[Generator] | None) -> Logs:
        """Fill ``stack.gradients`` for a batch; what to log, each (K,).

        Args:
            generators: each lane's own; None where the device's default one serves all.
        """
        plan = self.plans.get(batch.form)
        if plan is None:
            return self._first(stack, batch, generators)
        noise = plan.draw(generators)
        if self.compiles:
            self.seen[batch.form] += 1
            if self.seen[batch.form] == COMPILED_AT:
                self.compile(stack, batch)
        program = self.programs.get(batch.form)
        if program is not None:
            try:
                with torch.no_grad():  # it has its own gradient inside
                    logs = program(stack.leaves, stack.slopes, stack.fixed, self.values, noise, *batch.tensors)
            except Exception as error:  # a machine without a C++ compiler, an operation that inductor cannot take
                if self.seen[batch.form] > COMPILED_AT:
                    raise
                self.give_up(error)
            else:
                found: Logs = logs
                return found
        losses, logs = self._losses(plan, batch.shared, stack.leaves, stack.fixed, noise, batch.inputs, batch.targets)
        gradients = torch.autograd.grad(losses.sum(), stack.leaves, allow_unused=True)
        stack.layout.gather(_used(gradients), out=stack.gradients)
        return logs

    def _first(self, stack: Stack, batch: PackedBatch, generators: Sequence[Generator] | None) -> Logs:
        """The first batch of a form: each lane is rehearsed alone, and the stacked losses must equal theirs."""
        alone = [lambda lane=lane: self.algorithms[lane].forward(batch.of(lane)) for lane in range(len(stack))]
        plan, expected = rehearse(alone, stack.models, generators)
        self.plans[batch.form] = plan
        kept = {name: tensor.clone() for name, tensor in stack.fixed.items()}
        try:
            logs = self(stack, batch, generators)
        except (RuntimeError, TypeError, ValueError) as error:
            del self.plans[batch.form]
            raise self.lifted.refusal(error) if self.lifted.numbers else _refusal(error) from error
        for name in expected[0][1]:
            wanted = torch.stack([found[1][name] for found in expected])
            near = torch.isclose(logs[name], wanted, rtol=TOLERANCE, atol=TOLERANCE)
            if not (near | ~wanted.isfinite()).all():  # a lane that is diverging is ended for that, and it alone
                for key, tensor in kept.items():
                    stack.fixed[key].copy_(tensor)
                raise Unpackable("the stacked network does not compute what each network computes alone")
        return logs

    def _losses(
        self, plan: Plan, shared: bool, leaves: Sequence[Tensor], fixed: dict[str, Tensor],
        noise: tuple[Tensor, ...], x: Tensor, y: Tensor, values: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, Logs]:  # fmt: skip
        """Losses (K,), differentiable, and the logs."""
        replays = bool(plan) or bool(self.lifted.formulas)

        def of_lane(
            weights: Sequence[Tensor], others: dict[str, Tensor], values: tuple[Tensor, ...],
            noise: tuple[Tensor, ...], x: Tensor, y: Tensor,
        ) -> tuple[Tensor, Logs]:  # fmt: skip
            tensors = dict(zip(self.names, weights, strict=True))
            tensors |= {f"model.{name}": tensor for name, tensor in others.items()}
            replay: AbstractContextManager[object] = nullcontext()
            if replays:
                replay = Replay(plan, noise, self.lifted.formulas)
            with self.lifted.put(values), replay:
                found: tuple[Tensor, Logs] = functional_call(self.loss, tensors, ((x, y),))
            return found

        data = None if shared else 0
        lanes = vmap(of_lane, in_dims=(0, 0, 0, 0, data, data))
        losses, logs = lanes(list(leaves), fixed, self.values if values is None else values, noise, x, y)
        return losses, {name: value.detach() for name, value in logs.items()}

    def compile(self, stack: Stack, batch: PackedBatch) -> None:
        """Compile forward and backward for batches of this form; the first call after it does the work."""
        plan = self.plans[batch.form]

        def program(
            leaves: list[Tensor], slopes: list[Tensor], fixed: dict[str, Tensor], values: tuple[Tensor, ...],
            noise: tuple[Tensor, ...], x: Tensor, y: Tensor,
        ) -> Logs:  # fmt: skip
            # All tensors are arguments: what is written in place, as batch statistics are, may not come from outside.
            def total(weights: list[Tensor], fixed: dict[str, Tensor]) -> tuple[Tensor, Logs]:
                losses, logs = self._losses(plan, batch.shared, weights, fixed, noise, x, y, values)
                return losses.sum(), logs

            gradients, (_, logs) = grad_and_value(total, has_aux=True)(leaves, fixed)
            # Parameter by parameter in its own shape: side by side first, they would be copied number by number.
            for slope, gradient in zip(slopes, gradients, strict=True):
                slope.copy_(gradient)
            return dict(logs)

        self.programs[batch.form] = torch.compile(program, dynamic=False, fullgraph=True)

    def give_up(self, error: Exception) -> None:
        """Go on without compilation."""
        logger.warning("the pack is not compiled: %s", str(error).strip().splitlines()[0][:200])
        self.compiles = False
        self.programs.clear()

    def keep(self, lanes: Sequence[int]) -> None:
        """Go on with these lanes alone; what was compiled is for another number of them."""
        self.algorithms = [self.algorithms[lane] for lane in lanes]
        self.lifted.keep(lanes)
        self.values = self.lifted.values(self.values[0].device if self.values else "cpu")
        self.plans.clear()
        self.seen.clear()
        if self.programs:
            self.programs.clear()
            torch.compiler.reset()  # it keeps eight programs of one function, and refuses a ninth


class _Loss(nn.Module):
    """An algorithm's forward pass as a module, so that ``functional_call`` reaches its network."""

    def __init__(self, algorithm: Any) -> None:
        super().__init__()
        self.model = algorithm.model
        self._algorithm = [algorithm]  # in a list: no part of the module

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Loss (0-d) and logs of one lane."""
        found: tuple[Tensor, Logs] = self._algorithm[0].forward(batch)
        return found


def _used(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """All of them: an optimizer alone would leave a parameter without a gradient out, and a pack cannot."""
    found = [gradient for gradient in gradients if gradient is not None]
    if len(found) < len(gradients):
        raise Unpackable("the loss does not depend on every parameter of the network")
    return found


def _refusal(error: Exception) -> Unpackable:
    return Unpackable(f"vmap cannot run this network: {str(error).strip().splitlines()[0][:200]}")

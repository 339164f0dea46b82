"""``loss.backward()`` and ``optimizer.step()`` at the price of their arithmetic: the same kernels, to the same bits.

torch surrounds a step with a profiler's record, hooks and two calls into its compiler, and looks for each tensor of the
state anew: 20 to 50 microseconds, where moving the weights of a small network takes 12 to 50. A backward pass begins
with some 20 microseconds of questions whose answers are known here. What is left out is only that. A hook that someone
registers gets the ordinary step, and so does an optimizer that is neither torch's nor dlrun's own. The ordinary step's
first call also imports torch's compiler, for a second or more; this one's does not.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer

Group = dict[str, Any]
Tensors = list[Tensor]
Gradients = Sequence[Tensor | None]


_ENGINE: Any = getattr(torch.autograd.Variable, "_execution_engine", None)


def backward(loss: Tensor) -> None:
    """``loss.backward()`` of a 0-d loss, without its questions.

    Just that for a subclass of Tensor, and on a GPU once the compiler is imported: what it left to be compiled for the
    backward pass it finds in a thread of its own, and ``loss.backward()`` tells that thread how.
    """
    compiling = not loss.is_cpu and "torch._dynamo" in sys.modules
    if _ENGINE is None or compiling or type(loss) is not Tensor or loss.dim() > 0:
        loss.backward()
        return
    one = (torch.ones_like(loss),)
    _ENGINE.run_backward((loss,), one, False, False, (), allow_unreachable=True, accumulate_grad=True)


class LeanStep:
    """Takes the step that ``optimizer.step()`` takes without a closure.

    The first step is made by the optimizer's own loop, which makes the state. From then on, where torch has a fused
    kernel for all groups, that kernel is called on tensors collected once. The own loop makes a step again when a
    parameter has no gradient, and when the optimizer was given another state.

    Args:
        optimizer: any.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._loop = _own_loop(optimizer)
        self._kernel = KERNELS.get(type(optimizer))
        self._without_gradient = torch.no_grad()
        self._state: Any = None
        self._collected: list[_Collected] = []

    def __call__(self) -> None:
        """Take one step."""
        optimizer = self.optimizer
        if self._loop is None or _watched(optimizer):
            optimizer.step()
            return
        with self._without_gradient:
            groups = self._collected
            current = self._state is optimizer.state and all(group.current() for group in groups)
            if groups and current and all(group.ready() for group in groups):
                for group in groups:
                    group.move()
                return
            self._loop(optimizer)
            if self._kernel is not None and not (groups and current):
                self._state, self._collected = optimizer.state, _collect(optimizer, self._kernel)


def _own_loop(optimizer: Optimizer) -> Callable[[Optimizer], object] | None:
    """The ``step`` that torch has wrapped, of torch's and dlrun's optimizers; None where others may count on wraps."""
    kind = type(optimizer)
    if kind.__module__.partition(".")[0] not in ("torch", "dlrun") or optimizer.defaults.get("differentiable"):
        return None
    loop: Callable[[Optimizer], object] = inspect.unwrap(kind.step)
    return loop


def _watched(optimizer: Optimizer) -> bool:
    """Whether someone has put a hook on its step, or a function in its place."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or "step" in optimizer.__dict__
    )


@dataclass(frozen=True)
class Kernel:
    """A fused kernel of torch, as this file knows it.

    Attributes:
        operations: the torch operations it may call.
        arguments: what they take, in order.
        state: names of a parameter's state for a group's settings, in the order of ``call``.
        call: moves a group: settings, parameters, gradients, and the lists of the state.
    """

    operations: tuple[str, ...]
    arguments: str
    state: Callable[[Group], tuple[str, ...]]
    call: Callable[[Group, Tensors, Gradients, list[Tensors]], None]

    def fits(self, group: Group) -> bool:
        """Whether one call moves this group: plain tensors of one type on one device, and the kernel as known."""
        parameters = group["params"]
        plain = all(type(p) in (nn.Parameter, Tensor) and p.is_floating_point() for p in parameters)
        alike = len({(p.device, p.dtype) for p in parameters}) == 1
        return bool(group.get("fused")) and plain and alike and all(map(self._as_known, self.operations))

    def _as_known(self, operation: str) -> bool:
        overload = getattr(getattr(torch.ops.aten, operation, None), "default", None)
        schema = getattr(overload, "_schema", None)
        return schema is not None and " ".join(argument.name for argument in schema.arguments) == self.arguments


class _Collected:
    """The tensors of one group. Its settings are read anew at every step, so a schedule may change them."""

    def __init__(self, optimizer: Optimizer, group: Group, kernel: Kernel, names: tuple[str, ...]) -> None:
        self.group, self.call = group, kernel.call
        self.parameters: Tensors = group["params"]
        self.held: list[dict[str, Tensor]] = [optimizer.state[p] for p in self.parameters] if names else []
        self.counter = _side_by_side(self.held) if "step" in names else None
        self.state = [[held[name] for held in self.held] for name in names]
        self.first = itemgetter(names[0]) if names else None
        self.gradients: list[Tensor | None] = []

    def current(self) -> bool:
        """Whether the optimizer still holds these tensors: a pack of trials gives it others."""
        return self.first is None or all(map(is_, map(self.first, self.held), self.state[0]))

    def ready(self) -> bool:
        """Collect the gradients; whether every parameter has one."""
        self.gradients = [parameter.grad for parameter in self.parameters]
        return not any(map(is_, self.gradients, repeat(None)))

    def move(self) -> None:
        """Take one step on the gradients collected."""
        if self.counter is not None:
            self.counter.add_(1)
        self.call(self.group, self.parameters, self.gradients, self.state)
        self.gradients = []


def _collect(optimizer: Optimizer, kernel: Kernel) -> list[_Collected]:
    """The tensors of all groups; none where a group has no fused kernel or a parameter has no state yet."""
    named = [(group, kernel.state(group)) for group in optimizer.param_groups]
    for group, names in named:
        if not kernel.fits(group) or any(set(names) - set(optimizer.state.get(p, ())) for p in group["params"]):
            return []
    return [_Collected(optimizer, group, kernel, names) for group, names in named]


def _side_by_side(held: Sequence[dict[str, Tensor]]) -> Tensor:
    """Lay the counters of the parameters into one tensor: one addition counts all, where each takes microseconds."""
    together = torch.stack([state["step"] for state in held])
    for place, state in enumerate(held):
        state["step"] = together[place]
    return together


def _adam_state(group: Group) -> tuple[str, ...]:
    return ("step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))


def _adam(group: Group, parameters: Tensors, gradients: Gradients, state: list[Tensors]) -> None:
    steps, means, squares, largest = state if group["amsgrad"] else (*state, [])
    operation: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    operation(
        parameters, gradients, means, squares, largest, steps, lr=group["lr"], beta1=beta1, beta2=beta2,
        weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=group["amsgrad"], maximize=group["maximize"],
    )  # fmt: skip


def _adagrad_state(group: Group) -> tuple[str, ...]:
    return ("step", "sum")


def _adagrad(group: Group, parameters: Tensors, gradients: Gradients, state: list[Tensors]) -> None:
    steps, sums = state
    operation: Any = torch._fused_adagrad_
    operation(
        parameters, gradients, sums, steps, lr=group["lr"], lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
    )  # fmt: skip


def _sgd_state(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


def _sgd(group: Group, parameters: Tensors, gradients: Gradients, state: list[Tensors]) -> None:
    operation: Any = torch._fused_sgd_
    operation(
        parameters, gradients, state[0] if state else [], lr=group["lr"], momentum=group["momentum"],
        dampening=group["dampening"], nesterov=group["nesterov"], weight_decay=group["weight_decay"],
        maximize=group["maximize"], is_first_step=False,
    )  # fmt: skip


_TAIL = "maximize grad_scale found_inf"
_ADAM = Kernel(
    ("_fused_adam_", "_fused_adamw_"),
    "self grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps lr beta1 beta2 weight_decay eps amsgrad " + _TAIL,
    _adam_state,
    _adam,
)
KERNELS: dict[type[Optimizer], Kernel] = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.Adagrad: Kernel(
        ("_fused_adagrad_",),
        "self grads state_sums state_steps lr lr_decay weight_decay eps " + _TAIL,
        _adagrad_state,
        _adagrad,
    ),
    torch.optim.SGD: Kernel(
        ("_fused_sgd_",),
        "self grads momentum_buffer_list weight_decay momentum lr dampening nesterov maximize is_first_step "
        "grad_scale found_inf",
        _sgd_state,
        _sgd,
    ),
}


@contextmanager
def without_compiler() -> Iterator[None]:
    """Build optimizers, take their state and load it without importing torch's compiler, for a second or more.

    torch hides these functions from its compiler, and imports the compiler for that. Where it is not imported yet
    nothing is being compiled, so there is nothing to hide from: each function stands in for its hidden self meanwhile.
    """
    names = ("add_param_group", "state_dict", "load_state_dict")
    functions: list[Any] = [getattr(getattr(Optimizer, name), "__wrapped__", None) for name in names]
    shown = [f for f in functions if f is not None and not hasattr(f, HIDDEN)]
    if "torch._dynamo" in sys.modules:
        shown = []
    for function in shown:
        setattr(function, HIDDEN, function)
    try:
        yield
    finally:
        for function in shown:
            delattr(function, HIDDEN)


HIDDEN = "__dynamo_disable"  # where torch keeps a function's hidden form

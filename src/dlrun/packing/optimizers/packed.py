"""K ordinary optimizers as one that steps all their lanes at once; each remains the owner of its lane's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from dlrun import optimizers as own
from dlrun.packing.flat import Layout, Unpackable
from dlrun.packing.optimizers.adam import Adam, NAdam, RAdam
from dlrun.packing.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from dlrun.packing.optimizers.descent import SGD, GradientDescent, Lion
from dlrun.packing.optimizers.muon import MuonMatrices, MuonVectors
from dlrun.packing.optimizers.rule import Group, Rule


def _muon(group: Group) -> Rule:
    return MuonMatrices(group) if group.settings[0]["matrix"] else MuonVectors(group)


RULES: dict[type[Optimizer], Callable[[Group], Rule]] = {
    torch.optim.SGD: SGD,
    torch.optim.Adagrad: Adagrad,
    torch.optim.Adadelta: Adadelta,
    torch.optim.RMSprop: RMSprop,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: Adam,
    torch.optim.NAdam: NAdam,
    torch.optim.RAdam: RAdam,
    own.GradientDescent: GradientDescent,
    own.Lion: Lion,
    own.Muon: _muon,
}


# On a CPU the lanes step in blocks of at most so many weights: larger temporary tensors go back to the system and are
# asked for again in every step. RAdam's step of 16 lanes of 101,770 weights took 12 ms in one block, 5 ms in four.
BLOCK = 2**19


class Packed:
    """The step of K optimizers over stacked weights.

    Args:
        optimizers: one per lane, as ``pack`` has checked them.
        rules: one per parameter group, in order; each moves its own columns of the weights.
    """

    def __init__(self, optimizers: Sequence[Optimizer], rules: Sequence[Rule]) -> None:
        self.optimizers = list(optimizers)
        self.rules = list(rules)
        self.attached = False
        self._blocks = self._split()

    @torch.no_grad()
    def step(self, weights: Tensor, gradients: Tensor, rates: Tensor) -> None:
        """Move the weights in place; no branch on data, no waiting for the device: may be compiled or captured.

        Args:
            weights: (K, P), all trainable parameters of a lane in its optimizer's order.
            gradients: (K, P).
            rates: learning rates as they stand, (K, groups); float64 loses nothing of what an optimizer alone computes.
        """
        in_blocks = weights.is_cpu and not torch.compiler.is_compiling()
        for lanes, rules in self._blocks if in_blocks else [(slice(None), self.rules)]:
            start = 0
            for number, rule in enumerate(rules):
                columns = slice(start, start := start + rule.group.layout.size)
                rule.step(weights[lanes, columns], gradients[lanes, columns], rates[lanes, number : number + 1])

    def _split(self) -> list[tuple[slice, list[Rule]]]:
        """Neighbouring lanes in blocks of few enough weights, each with its part of the rules."""
        size = max(1, BLOCK // max(1, sum(rule.group.layout.size for rule in self.rules)))
        blocks = [slice(first, first + size) for first in range(0, len(self.optimizers), size)]
        return [(lanes, [rule.part(lanes) for rule in self.rules]) for lanes in blocks]

    def attach(self) -> None:
        """Let the state of every lane's optimizer look into the pack: it is that of an optimizer alone from then on.

        Before a lane's first step it holds zeros where torch's own mostly holds nothing; both go on alike.
        """
        self.attached = True
        for lane in range(len(self.optimizers)):
            self._give(lane, lambda view: view)

    def release(self, lane: int) -> None:
        """Give a lane's optimizer its own copies of its state: the pack no longer changes them."""
        self._give(lane, Tensor.clone)

    def _give(self, lane: int, form: Callable[[Tensor], Tensor]) -> None:
        optimizer = self.optimizers[lane]
        for rule, group in zip(self.rules, optimizer.param_groups, strict=True):
            for parameter, state in zip(group["params"], rule.state_of(lane), strict=True):
                if state:
                    held = optimizer.state[parameter]
                    held.clear()
                    held.update({key: form(view) for key, view in state.items()})

    def keep(self, lanes: Sequence[int]) -> None:
        """Go on with these lanes only, in this order; the others are released, and new buffers made."""
        for lane in set(range(len(self.optimizers))) - set(lanes):
            self.release(lane)
        self.optimizers = [self.optimizers[lane] for lane in lanes]
        for rule in self.rules:
            rule.keep(lanes)
        self._blocks = self._split()
        if self.attached:
            self.attach()


def pack(optimizers: Sequence[Optimizer], layout: Layout) -> Packed:
    """One optimizer for all lanes, with the state that theirs have; theirs remain as they are until ``attach``.

    Args:
        optimizers: one per lane, all of one class.
        layout: of a lane's parameters in the optimizers' order: one group after another.

    Raises:
        Unpackable: they cannot make their steps together.
    """
    kinds = {type(optimizer) for optimizer in optimizers}
    if len(kinds) > 1:
        raise Unpackable(f"the trials have different optimizers: {', '.join(sorted(kind.__name__ for kind in kinds))}")
    (kind,) = kinds
    if kind is torch.optim.LBFGS:
        raise Unpackable("LBFGS computes the loss several times in a step, as often as its line search wants")
    if kind not in RULES:
        raise Unpackable(f"{kind.__module__}.{kind.__name__} has no form for stacked tensors")
    if len({len(optimizer.param_groups) for optimizer in optimizers}) > 1:
        raise Unpackable("the optimizers have different numbers of parameter groups")
    rules, start = [], 0
    for number, first in enumerate(optimizers[0].param_groups):
        end = start + len(first["params"])
        rules.append(RULES[kind](_group(optimizers, number, Layout(layout.shapes[start:end]))))
        start = end
    if start != len(layout.shapes):
        raise Unpackable(f"the optimizers have {start} parameters, the stacked network {len(layout.shapes)}")
    return Packed(optimizers, rules)


def _group(optimizers: Sequence[Optimizer], number: int, layout: Layout) -> Group:
    settings = [optimizer.param_groups[number] for optimizer in optimizers]
    kinds = {(p.dtype, p.device) for group in settings for p in group["params"]}
    if len(kinds) > 1 or not all(dtype.is_floating_point for dtype, _ in kinds):
        raise Unpackable("the parameters are not of one floating-point type on one device")
    for group in settings:
        if tuple(tuple(p.shape) for p in group["params"]) != layout.shapes:
            raise Unpackable("the parameters have other shapes, or another order, than the stacked network's")
    states = [
        [optimizer.state.get(p, {}) for p in group["params"]]
        for optimizer, group in zip(optimizers, settings, strict=True)
    ]
    return Group(settings, states, layout, settings[0]["params"][0].detach().new_empty(0))

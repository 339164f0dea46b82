"""K networks in one: their parameters side by side in one buffer, their other tensors stacked.

Shape legend: K lanes, P trainable parameters of a lane.

Each lane's ordinary network looks into the stack (``parameter.data`` is a view), so that whatever evaluates, saves or
draws a lane sees an ordinary network, and what the stack's step changes is changed there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlrun.packing.flat import Layout, Unpackable


class Stack:
    """The tensors of K networks of one architecture.

    Attributes:
        names: of the trainable parameters, in the optimizer's order.
        weights: (K, P), all trainable parameters.
        gradients: (K, P), those of the last step.
        slopes: each parameter's gradient of all lanes (K, *shape), a view of ``gradients``.
        leaves: each parameter of all lanes (K, *shape), a view of ``weights`` that gradients are taken for.
        fixed: every buffer and every parameter that is not trained, (K, *shape), by name.

    Args:
        models: one per lane.
        trainable: of each lane, the parameters in the optimizer's order.

    Raises:
        Unpackable: the networks differ in a shape or a type.
    """

    def __init__(self, models: Sequence[nn.Module], trainable: Sequence[Sequence[nn.Parameter]]) -> None:
        self.models = list(models)
        self.trainable = [list(parameters) for parameters in trainable]
        named = {id(p): name for name, p in models[0].named_parameters()}
        self.names = [named[id(p)] for p in self.trainable[0]]
        self.layout = Layout.of(self.trainable[0])
        self._check()
        with torch.no_grad():
            self.weights = torch.stack([torch.cat([p.flatten() for p in lane]) for lane in self.trainable])
            self.gradients = torch.zeros_like(self.weights)
            others = [_others(model, set(self.names)) for model in models]
            self.fixed = {name: torch.stack([lane[name] for lane in others]) for name in others[0]}
        self._attach()

    def __len__(self) -> int:
        return len(self.models)

    def _check(self) -> None:
        first = self.models[0]
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in _tensors(first).items()}
        for model, parameters in zip(self.models, self.trainable, strict=True):
            found = {name: (tuple(t.shape), t.dtype) for name, t in _tensors(model).items()}
            if found != shapes:
                name = next(n for n in shapes | found if found.get(n) != shapes.get(n))
                raise Unpackable(
                    f"the networks differ: {name} is {shapes.get(name)} in one and {found.get(name)} in another"
                )
            if len(parameters) != len(self.names):
                raise Unpackable("the networks have different numbers of trainable parameters")
        if len({p.dtype for p in self.trainable[0]}) > 1:
            raise Unpackable("the parameters are of several number formats")

    def _attach(self) -> None:
        """Let every lane's network look into the stack."""
        self.slopes = self.layout.views(self.gradients)
        self.leaves = [view.detach().requires_grad_() for view in self.layout.views(self.weights)]
        for lane, (model, parameters) in enumerate(zip(self.models, self.trainable, strict=True)):
            for parameter, view in zip(parameters, self.layout.lane_views(self.weights, lane), strict=True):
                parameter.data = view
            for name, tensor in _others(model, set(self.names)).items():
                tensor.data = self.fixed[name][lane]

    def show_gradients(self) -> None:
        """Let every parameter's ``grad`` look into the stack too, once there are gradients to see."""
        for lane, parameters in enumerate(self.trainable):
            for parameter, view in zip(parameters, self.layout.lane_views(self.gradients, lane), strict=True):
                parameter.grad = view

    def keep(self, lanes: Sequence[int]) -> None:
        """Go on with these lanes in new buffers; the others get their own, so that the old ones are given back."""
        for lane in set(range(len(self.models))) - set(lanes):
            for parameter in self.trainable[lane]:
                parameter.data, parameter.grad = parameter.data.clone(), None
            for tensor in _others(self.models[lane], set(self.names)).values():
                tensor.data = tensor.data.clone()
        index = torch.tensor(lanes, device=self.weights.device)
        self.weights, self.gradients = self.weights[index].clone(), self.gradients[index].clone()
        self.fixed = {name: tensor[index].clone() for name, tensor in self.fixed.items()}
        self.models = [self.models[lane] for lane in lanes]
        self.trainable = [self.trainable[lane] for lane in lanes]
        self._attach()
        self.show_gradients()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _others(model: nn.Module, trained: set[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in _tensors(model).items() if name not in trained}

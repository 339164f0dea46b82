"""A network as ``vmap`` runs it: one module, called with the weights of each of many."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class Lane:
    """A network called with one lane's weights; a task may call its other methods too."""

    def __init__(self, model: nn.Module, state: tuple[dict[str, Tensor], ...]) -> None:
        self.model, self.state = model, state

    def __call__(self, *inputs: Tensor) -> Any:
        return functional_call(self.model, self.state, inputs)

    def __getattr__(self, name: str) -> Any:
        method = Method(self.model, name)
        state = tuple({f"model.{key}": value for key, value in part.items()} for part in self.state)
        return lambda *inputs: functional_call(method, state, inputs)


class Method(nn.Module):
    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.model, self.name)(*inputs)

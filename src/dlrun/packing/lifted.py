"""The numbers in which the lanes of a pack differ, as stacked inputs of its forward pass.

The one template that ``vmap`` runs has each lane's number in turn: an attribute that was 0.1 is a 0-d tensor for the
time of the forward pass. Where torch takes a Python float alone, ``formulas`` has the same function written out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dlrun.packing.flat import Unpackable
from dlrun.packing.formulas import FORMULAS
from dlrun.packing.numbers import Number, Step


class Lifted:
    """The numbers of a pack, put into the template that stands for all lanes.

    Args:
        template: objects like those of a lane; they are changed for the time of a forward pass and put back.
        numbers: from ``differing``.
    """

    def __init__(self, template: Sequence[Any], numbers: Sequence[Number]) -> None:
        self.numbers = tuple(numbers)
        # Dynamo cannot trace ``isinstance`` of a union, so which owner is a container is found here.
        self._places = [_place(template, number.path) for number in numbers]
        self.formulas = FORMULAS if numbers else {}

    def values(self, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """For ``vmap`` with ``in_dims=0``: (K,) float32 for each number, (K, ...) for each tensor."""
        return tuple(
            torch.stack(number.values).to(device)
            if isinstance(number.values[0], Tensor)
            else torch.tensor(number.values, dtype=torch.float32, device=device)
            for number in self.numbers
        )

    def refusal(self, error: Exception) -> Unpackable:
        """What to say when the pack's first forward pass fails for numbers that torch takes as plain ones alone."""
        keys = " and ".join(dict.fromkeys(number.key for number in self.numbers))
        return Unpackable(f"trials that differ in {keys} do not pack: {str(error).strip().splitlines()[0][:150]}")

    def keep(self, lanes: Sequence[int]) -> None:
        """Go on with these lanes alone."""
        chosen = [tuple(number.values[lane] for lane in lanes) for number in self.numbers]
        self.numbers = tuple(
            dataclasses.replace(number, values=values) for number, values in zip(self.numbers, chosen, strict=True)
        )

    @contextmanager
    def put(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Inside of ``vmap``: one lane's values in place of the template's own, until the end of the block."""
        before = [_get(*place) for place in self._places]
        try:
            for place, value in zip(self._places, values, strict=True):
                _set(*place, value)
            yield
        finally:
            for place, value in zip(self._places, before, strict=True):
                _set(*place, value)


Place = tuple[Any, Any, bool]  # what holds a value, under which name, key or position, and whether it is a container


def _place(template: Sequence[Any], path: tuple[Step, ...]) -> Place:
    owner: Any = template
    for step in path[:-1]:
        owner = _get(owner, step, _holds(owner))
    return owner, path[-1], _holds(owner)


def _holds(owner: Any) -> bool:
    return isinstance(owner, list | tuple | dict)


def _get(owner: Any, step: Any, container: bool) -> Any:
    return owner[step] if container else getattr(owner, str(step))


def _set(owner: Any, step: Any, container: bool, value: Any) -> None:
    if container:
        owner[step] = value
    else:
        setattr(owner, step, value)

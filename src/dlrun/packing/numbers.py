"""In which numbers the lanes of a pack differ.

Every lane has objects of its own, built from its own configuration: a network, a task with its loss. They are walked
side by side. What differs must be a number or a tensor of one shape; anything else (a size, a word, a function) would
be another computation, and such trials do not pack.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dlrun.losses import ClassWeights
from dlrun.packing.flat import Unpackable

Step = str | int
ACTIVATIONS = (nn.ELU, nn.CELU, nn.LeakyReLU, nn.Hardshrink, nn.Softshrink, nn.Softplus, nn.Hardtanh, nn.RReLU)
KEPT_BY_TORCH = frozenset(vars(nn.Module())) - {"training"}  # registers and hooks
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Number:
    """A number, or a tensor, that is not the same in all lanes.

    Attributes:
        key: as the user knows it, such as ``model.dropout``; the attribute's path where that is not known.
        path: from a lane's tuple of objects: the object's position, then attributes, keys and positions.
        values: of each lane.
    """

    key: str
    path: tuple[Step, ...]
    values: tuple[Any, ...]


def differing(lanes: Sequence[Sequence[Any]], names: Sequence[str] = ("model", "task")) -> list[Number]:
    """In what numbers the lanes differ.

    The parameters and buffers of a lane's networks (its objects that are an ``nn.Module``) are trained or kept stacked,
    so only their shapes and types are compared. All other tensors count as numbers.

    Args:
        lanes: the objects of each lane, in the same order.
        names: of the objects, for messages.

    Raises:
        Unpackable: they differ in something else, which the sentence names.
    """
    walk = _Walk(names)
    for position, objects in enumerate(zip(*lanes, strict=True)):
        walk.visit((position,), objects, stacked=isinstance(objects[0], nn.Module))
    return list(walk.found.values())


class _Walk:
    """Objects that lanes have at the same place, compared from the outside in; each is visited once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.seen: dict[tuple[int, ...], None] = {}
        self.kept: list[Any] = []  # an id is an object's own only as long as the object lives
        self.found: dict[tuple[int, Step], Number] = {}

    def visit(self, path: tuple[Step, ...], values: Sequence[Any], stacked: bool, owner: Any = None) -> None:
        """Compare one value of each lane; ``owner`` is what holds the first lane's."""
        first = values[0]
        if all(value is first for value in values) or isinstance(first, weakref.ref):
            return
        if all(_is_number(value) for value in values):
            self._numbers(path, values, owner)
        elif any(type(value) is not type(first) for value in values):
            raise self._refused(path, owner, values)
        elif isinstance(first, Tensor):
            self._tensors(path, values, stacked, owner)
        elif not (_plainly_equal(values) or self._entered(values)):
            for step, parts in self._parts(path, values, owner):
                self.visit((*path, step), parts, stacked, first)

    def _entered(self, values: Sequence[Any]) -> bool:
        ids = tuple(map(id, values))
        if ids in self.seen:
            return True
        self.seen[ids] = None
        self.kept += values
        return False

    def _parts(self, path: tuple[Step, ...], values: Sequence[Any], owner: Any) -> Iterator[tuple[Step, Sequence[Any]]]:
        """What the values consist of, by attribute, key or position."""
        inside = [_contents(value) for value in values]
        codes = {value.__code__ for value in values if isinstance(value, types.FunctionType)}
        if any(parts.keys() != inside[0].keys() for parts in inside) or not inside[0] or len(codes) > 1:
            raise self._refused(path, owner, values)
        for step in inside[0]:
            yield step, [parts[step] for parts in inside]

    def _numbers(self, path: tuple[Step, ...], values: Sequence[Any], owner: Any) -> None:
        if all(value == values[0] or (value != value and values[0] != values[0]) for value in values):
            return
        name = str(path[-1])
        if not any(isinstance(value, float) for value in values) and not _meant_as_float(owner, name):
            raise self._refused(path, owner, values)
        if isinstance(owner, NORMS):
            raise Unpackable(
                f"{self.key(path, owner)} is a number that torch's normalisation takes once for all trials"
            )
        self._add(Number(self.key(path, owner), path, tuple(map(float, values))), owner)

    def _tensors(self, path: tuple[Step, ...], values: Sequence[Tensor], stacked: bool, owner: Any) -> None:
        first = values[0]
        if any((v.shape, v.dtype, v.requires_grad) != (first.shape, first.dtype, first.requires_grad) for v in values):
            raise self._refused(path, owner, [_of(value) for value in values])
        registered = isinstance(owner, nn.Module) and path[-1] in {**owner._parameters, **owner._buffers}
        if (stacked and (registered or isinstance(first, nn.Parameter))) or all(
            torch.equal(value, first) for value in values
        ):
            return
        if isinstance(first, nn.Parameter):
            raise Unpackable(f"{self.key(path, owner)} is a weight outside of the network")
        self._add(Number(self.key(path, owner), path, tuple(values)), owner)

    def _add(self, number: Number, owner: Any) -> None:
        parameters: Any = getattr(type(owner), "__dataclass_params__", None)
        if any(str(step).startswith("__") for step in number.path):
            raise Unpackable(f"{number.key} is a function that is not the same in all trials")
        if owner is None or isinstance(owner, tuple) or (parameters is not None and parameters.frozen):
            raise Unpackable(f"{number.key} is not the same in all trials: they pack where they share their data")
        before = self.found.setdefault((id(owner), number.path[-1]), number)
        if before is not number and not _plainly_equal([before.values, number.values]):
            raise Unpackable(f"{number.key} belongs to an object that one trial uses in two places and another in one")

    def _refused(self, path: tuple[Step, ...], owner: Any, values: Sequence[Any]) -> Unpackable:
        shown = list(dict.fromkeys(_shown(value) for value in values))
        which = f": {' and '.join(shown[:2])}" if len(shown) > 1 and max(map(len, shown[:2])) < 60 else ""
        return Unpackable(f"{self.key(path, owner)} is no number that may differ within a pack{which}")

    def key(self, path: tuple[Step, ...], owner: Any) -> str:
        """The key of the configuration that most likely set an attribute, else its path."""
        inside = [str(self.names[int(path[0])]), *(str(step) for step in path[1:] if not str(step).startswith("__"))]
        if isinstance(owner, nn.Dropout) or path[-1] == "dropout":
            return "model.input_dropout" if "input_dropout" in path else "model.dropout"
        if isinstance(owner, ACTIVATIONS):
            return f"activation.{path[-1]}"
        if isinstance(owner, ClassWeights):
            return "loss.class_weights"
        if "loss_function" in inside[:-1]:
            return ".".join(["loss", *inside[inside.index("loss_function") + 1 :]])
        return ".".join(inside)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _meant_as_float(owner: Any, name: str) -> bool:
    """Whether the constructor's argument of that name is a float, so that 1 stands for 1.0."""
    if owner is None or isinstance(owner, list | dict | tuple):
        return False
    try:
        hint = get_type_hints(type(owner).__init__).get(name)
    except (NameError, TypeError):
        return False
    return float in (hint, *get_args(hint))


def _plainly_equal(values: Sequence[Any]) -> bool:
    """Whether values that are plain all through are equal; false where only a look inside can tell."""
    first = values[0]
    try:
        return all(bool(value == first) for value in values)
    except (RuntimeError, ValueError, TypeError):  # a tensor or an array inside
        return False


def _contents(value: Any) -> Mapping[Any, Any]:
    """What is inside of a value, by name; nothing where it is a whole."""
    if isinstance(value, nn.Module):
        own = {name: part for name, part in vars(value).items() if name not in KEPT_BY_TORCH}
        return own | value._parameters | value._buffers | value._modules
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.MethodType):  # its object is the lane's own, such as its data
        return {"__func__": value.__func__}
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _compared(cell)]
        return {"__defaults__": value.__defaults__, "__closure__": cells}
    return {"__class__": type(value)} | vars(value) if hasattr(value, "__dict__") else {}


def _compared(cell: types.CellType) -> bool:
    """Whether a function's closure holds a plain value there; an object is the lane's own, such as its data."""
    try:
        return isinstance(cell.cell_contents, int | float | str | bool | type(None))
    except ValueError:  # not yet filled
        return False


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return getattr(value, "__name__", type(value).__name__) if hasattr(value, "__dict__") else repr(value)


def _of(value: Tensor) -> str:
    return f"a tensor {tuple(value.shape)}"

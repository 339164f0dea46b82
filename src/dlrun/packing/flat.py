"""One buffer (K, P) for all parameters of all lanes, and the shaped views into it.

K lanes, P numbers per lane. A lane's row holds its parameters one after another in a fixed order. Everything here but
``gather`` aliases the buffer: writing to a view writes to the buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Unpackable(Exception):  # noqa: N818 - no mistake: the trials are to run one by one
    """These trials cannot train as one stacked network; one sentence says why."""


class Layout:
    """Where each parameter lies in a lane's row.

    Args:
        shapes: the shape of each parameter, in order.

    Attributes:
        shapes: as given, as tuples.
        offsets: the first column of each parameter.
        sizes: the number of columns of each.
        size: P, the number of columns of all.
    """

    def __init__(self, shapes: Iterable[Sequence[int]]) -> None:
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.sizes = tuple(torch.Size(shape).numel() for shape in self.shapes)
        self.offsets = tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))
        self.size = sum(self.sizes)

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Layout:
        """The layout of tensors in the given order."""
        return cls(tensor.shape for tensor in tensors)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Of (K, P): each parameter of all lanes, (K, *shape), looking into the buffer."""
        return [
            buffer[:, start : start + size].view(buffer.shape[0], *shape)
            for start, size, shape in zip(self.offsets, self.sizes, self.shapes, strict=True)
        ]

    def lane_views(self, buffer: Tensor, lane: int) -> list[Tensor]:
        """Of (K, P): each parameter of one lane in its own shape, looking into the buffer."""
        return [view[lane] for view in self.views(buffer)]

    def gather(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The inverse of ``views``: tensors (K, *shape) side by side as (K, P), copied into ``out`` if it is given."""
        return torch.cat([tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None] for tensor in tensors], 1, out=out)

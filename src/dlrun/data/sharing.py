"""What several processes of one run may do with the data that each of them holds."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Keep = Callable[[Tensor], Tensor]  # gives a tensor back, or one copy of it for all processes


def as_it_lies(tensor: Tensor) -> Tensor:
    """One process holds its data itself."""
    return tensor

"""How parameters change: one file per algorithm."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from dlrun.tasks import Batch
from dlrun.training.updater import Moves, Updater, Updaters


class Algorithm(Protocol):
    """One way to change parameters. Counts no steps, logs nothing, saves nothing.

    Attributes:
        in_pieces: whether a batch may be cut into pieces whose gradients are added.
        scaled_loss: whether it works on a loss scaled for float16.
        consecutive: whether batches must continue one another, as truncated backpropagation through time needs it.
        requires: what it asks of a model beside ``forward``.
        unpackable: why trials with it cannot be trained together as one stacked model; empty where they can.
        ungraphable: why its step cannot be recorded and replayed; empty where it can.
        updater: what moves the weights; the trainer sets the rate on it. Of several, ``updaters`` gives each.
    """

    in_pieces: ClassVar[bool]
    scaled_loss: ClassVar[bool]
    consecutive: ClassVar[bool]
    requires: ClassVar[tuple[str, ...]]
    unpackable: ClassVar[str]
    ungraphable: ClassVar[str]
    updater: Moves

    @property
    def model(self) -> Any:
        """The network that it trains, with everything that belongs to it: an ``nn.Module``."""
        ...

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch; what to log, as 0-d tensors that nothing has waited for, the same keys every time."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it carries from step to step beside the weights and the optimizer's state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        ...


class Differentiates(Algorithm, Protocol):
    """An algorithm whose gradient is that of one loss."""

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch (0-d, differentiable) and what to log; the part an engine may compile."""
        ...


def updaters(algorithm: Algorithm) -> dict[str, Updater]:
    """An algorithm's updaters, one for each optimizer, in order, by the network that each moves.

    The one of most algorithms has the name ''. An algorithm of several networks has an attribute NAME_updater for each.
    """
    moves = algorithm.updater
    if not isinstance(moves, Updaters):
        return {"": moves}  # type: ignore[dict-item]
    names = {id(value): name.removesuffix("_updater") for name, value in vars(algorithm).items()}
    return {names.get(id(part), f"network {number}"): part for number, part in enumerate(moves.parts, 1)}


@runtime_checkable
class Phased(Protocol):
    """An algorithm whose steps differ by what it counts in Python, so that an engine which replays steps must know.

    Any other algorithm does the same at every step: what differs lies in tensors.
    """

    def phase(self, ahead: int) -> Hashable:
        """The kind of step that comes after so many more; None for one that happens only once."""
        ...

    def count(self, steps: int) -> None:
        """Count steps that were replayed."""
        ...

"""What a run holds beside its batches: where its tensors lie, what its algorithm carries, and a copy to go back to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from dlrun.algorithms import updaters
from dlrun.engines.recording import Ungraphable
from dlrun.training.state import restore, state_of
from dlrun.training.trainer import Trainer


class StateInPlace:
    """The tensors that an algorithm carries from step to step, kept in one place.

    An ordinary step may leave its result in a new tensor. It is copied to where the old one was, so that recordings and
    ordinary steps go on from each other.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._places: list[int] = []
        self._leaves: list[Any] = []
        self._form: TreeSpec | None = None

    def moved(self) -> bool:
        """Whether any tensor of the run lies elsewhere than at the last look."""
        if self._places == self._now():
            return False
        self._adopt()
        self._places = self._now()
        return True

    def settle(self) -> bool:
        """Take up what a step has left; false when a plain value, such as a count, changed with it."""
        leaves, form = tree_flatten(self.trainer.algorithm.state_dict())
        before = [leaf for leaf in self._leaves if not isinstance(leaf, Tensor)]
        alike = form == self._form and all(map(_fits, self._leaves, leaves))
        if not alike:
            self._adopt()
            return form != self._form or before == [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        with torch.no_grad():
            for place, leaf in enumerate(leaves):
                mine = self._leaves[place]
                if isinstance(leaf, Tensor):
                    if leaf.data_ptr() != mine.data_ptr():
                        mine.copy_(leaf)
                else:
                    self._leaves[place] = leaf
        self._load()
        return before == [leaf for leaf in leaves if not isinstance(leaf, Tensor)]

    def held(self) -> BeforeRecording:
        """What is carried now, to be put back."""
        return BeforeRecording(self.trainer)

    def _adopt(self) -> None:
        """Go on with copies of what is carried now: the algorithm's own may be in the logs, too."""
        leaves, self._form = tree_flatten(self.trainer.algorithm.state_dict())
        self._leaves = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._load()

    def _load(self) -> None:
        if self._form is not None and self._leaves:
            self.trainer.algorithm.load_state_dict(tree_unflatten(self._leaves, self._form))

    def _now(self) -> list[int]:
        """The addresses of everything that a step reads or changes and that stays from step to step."""
        trainer = self.trainer
        tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
        tensors += [
            tensor
            for updater in updaters(trainer.algorithm).values()
            for state in updater.optimizer.state.values()
            for tensor in state.values()
        ]
        tensors += tree_flatten([trainer.average.state_dict(), trainer.algorithm.state_dict()])[0]
        return [tensor.data_ptr() for tensor in tensors if isinstance(tensor, Tensor)]


class BeforeRecording:
    """An algorithm's state before steps that are recorded and not done."""

    def __init__(self, trainer: Trainer) -> None:
        self.algorithm = trainer.algorithm
        self._leaves, self._form = tree_flatten(self.algorithm.state_dict())

    def copy_back(self) -> None:
        """Copy what the steps have left to where it was before them; a part of the recording.

        Raises:
            Ungraphable: the shape of what is carried changed.
        """
        after, form = tree_flatten(self.algorithm.state_dict())
        if form != self._form or not all(map(_fits, self._leaves, after)):
            raise Ungraphable("what the algorithm carries from step to step changes its shape")
        with torch.no_grad():
            for mine, left in zip(self._leaves, after, strict=True):
                if isinstance(mine, Tensor) and left.data_ptr() != mine.data_ptr():
                    mine.copy_(left)

    def put_back(self) -> None:
        """Let the algorithm go on from before the steps."""
        if self._leaves:
            self.algorithm.load_state_dict(tree_unflatten(self._leaves, self._form))


class Snapshot:
    """A copy of everything the rest of a run depends on."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._state = tree_map(_copied, state_of(trainer))

    def put_back(self) -> None:
        """Go back to it."""
        restore(self.trainer, self._state, None)


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _fits(mine: Any, other: Any) -> bool:
    """Whether one leaf can take the other's place in a recording."""
    if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
        return isinstance(mine, Tensor) == isinstance(other, Tensor)
    return mine.shape == other.shape and mine.dtype == other.dtype and mine.device == other.device

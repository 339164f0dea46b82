"""The ways to train a case, one file each: ``train(work, clock) -> Trained``.

Every way runs in a process of its own (``worker.py``), which stays for the whole table and waits while the others run:
what one package's import does to a process - threads, warnings, thousands of objects for the garbage collector - cannot
slow another, and ways can still take turns within a repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from cases import Case
from work import Clock, Trained, Work

Train = Callable[[Work, Clock], Trained]


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        module: of this package.
        needs: the package that must be installed, and the name it is installed by.
        only_supervised: whether it can only train what has one loss.
        also: slugs of other cases it can train all the same.
        cuda: whether it is for GPUs alone.
    """

    module: str
    needs: tuple[str, str] | None = None
    only_supervised: bool = False
    also: tuple[str, ...] = ()
    cuda: bool = False

    def missing(self, case: Case, device: str) -> str:
        """Why it cannot train the case here; empty when it can."""
        if self.cuda and device != "cuda":
            return "needs a GPU"
        if self.needs and find_spec(self.needs[0]) is None:
            return f"{self.needs[1]} is not installed (pip install dlrun[bench])"
        if self.only_supervised and not case.kind.supervised and case.slug not in self.also:
            return "not made for it"
        return ""

    def train(self) -> Train:
        """Its function."""
        found: Train = import_module(f"ways.{self.module}").train
        return found


WAYS = {
    "tensors": Way("tensors"),
    "loader": Way("loader"),
    "graph": Way("graph", cuda=True),
    "dlrun": Way("by_dlrun"),
    "lightning": Way("by_lightning", ("lightning", "lightning"), True, also=("gan",)),
    "keras": Way("by_keras", ("keras", "keras"), True),
    "transformers": Way("by_transformers", ("transformers", "transformers"), True),
    "skorch": Way("by_skorch", ("skorch", "skorch"), True),
    "ignite": Way("by_ignite", ("ignite", "pytorch-ignite"), True, also=("gan", "rbm")),
}
ONLY_COUNTED = {"counted": Way("counted")}
PEERS = ("lightning", "keras", "transformers", "skorch", "ignite")
PACKAGES = ("lightning", "keras", "transformers", "accelerate", "skorch", "pytorch-ignite")

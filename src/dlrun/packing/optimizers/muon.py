"""Muon over stacked lanes: matrices made orthogonal in batches of one matrix per lane; AdamW for the vectors."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlrun.optimizers import orthogonal
from dlrun.packing.optimizers.adam import Moments
from dlrun.packing.optimizers.rule import Group, Rule


class MuonMatrices(Rule):
    """``dlrun.optimizers.Muon`` for parameters with two dimensions or more."""

    numbers: ClassVar[frozenset[str]] = frozenset({"momentum", "weight_decay", "betas", "eps"})
    decouples: ClassVar[bool] = True

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.buffer("momentum")
        self.column("mu", lambda s: s["momentum"])

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        m, mu = self.buffers["momentum"], self.columns["mu"]
        self.direction(w, g, rate)  # its decay
        m.mul_(mu).add_(g)
        moves = []
        for u in self.group.layout.views(torch.addcmul(g, m, mu)):
            matrices = u.flatten(2)
            scale = max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
            moves.append(torch.vmap(orthogonal)(matrices) * scale)
        w.addcmul_(self.group.layout.gather(moves), rate.to(w.dtype), value=-1)


class MuonVectors(Moments):
    """``dlrun.optimizers.Muon`` for biases and gains: AdamW."""

    numbers: ClassVar[frozenset[str]] = MuonMatrices.numbers
    decouples: ClassVar[bool] = True
    mean: ClassVar[str] = "mean"
    square: ClassVar[str] = "square"

    def step(self, w: Tensor, g: Tensor, rate: Tensor) -> None:
        """One step of all lanes."""
        mean, square = self.take(self.direction(w, g, rate))
        root = square.sqrt().div_(self.columns["root"]).add_(self.columns["eps"])
        w.addcmul_(torch.div(mean, root, out=root), (rate * self.columns["factor"]).to(w.dtype), value=-1)
        self.count()

"""How many of the clouds that the data consist of a generator finds, and how well it shares itself out among them.

Source: L. Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017, and A. Srivastava et al., "VEEGAN",
NeurIPS 2017, section 4.1: an example within three standard deviations of a cloud's centre belongs to it. Differs in:
``overlap``, one number for both faults, a lost cloud and a blurred one.

Shapes: N examples, K clouds, D values of an example.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dlrun.tasks import Batch, Logs, Monitor

WITHIN = 3.0
FEWEST = 10


class ModesYardstick:
    """Judges generated points by the clouds of the training part, one for each class.

    ``modes``: clouds with at least 10 of the examples (of fewer than 1,000 at least 1 %). ``quality``: share of the
    examples that belong to any cloud. ``overlap``: sum over the clouds of the smaller of two shares, the examples' and
    the training part's; 1 is the data themselves (0.99 in two dimensions, as 1 % of a cloud is farther out), 1 / K one
    cloud alone.
    """

    names: tuple[str, ...] = ("overlap", "modes", "quality")
    monitor = Monitor("overlap", higher_is_better=True)

    def __init__(self, clouds: int, values: int) -> None:
        self.centres = torch.zeros(clouds, values)
        self.deviations = torch.ones(clouds)
        self.shares = torch.full((clouds,), 1 / clouds)

    def learn(self, batches: Iterable[Batch]) -> None:
        """Centre (K, D), deviation along an axis (K,) and share (K,) of each cloud of the training part."""
        clouds, values = self.centres.shape
        counts, sums, squares = torch.zeros(clouds), torch.zeros(clouds, values), torch.zeros(clouds, values)
        counts, sums, squares = counts.double(), sums.double(), squares.double()
        for inputs, targets in batches:
            points, labels = inputs.double().cpu(), targets.cpu()
            counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
            sums.index_add_(0, labels, points)
            squares.index_add_(0, labels, points.square())
        seen = counts.clamp(min=1)[:, None]
        variances = (squares / seen - (sums / seen).square()).clamp(min=0)
        self.centres = (sums / seen).float()
        self.deviations = variances.mean(dim=1).sqrt().float()
        self.shares = (counts / counts.sum()).float()

    def judge(self, batches: Iterable[Batch], *sampled: Tensor) -> list[Logs]:
        """The metrics of each set of examples (N, D); the training part is the standard, so no batch is looked at."""
        return [self._worth(samples) for samples in sampled]

    def _worth(self, samples: Tensor) -> Logs:
        centres, deviations, shares = (t.to(samples.device) for t in (self.centres, self.deviations, self.shares))
        apart = torch.cdist(samples.float(), centres) / deviations.clamp(min=1e-12)  # (N, K)
        distance, nearest = apart.min(dim=1)
        found = torch.bincount(nearest[distance <= WITHIN], minlength=len(centres))  # (K,)
        enough = min(FEWEST, max(1, len(samples) // 100))
        return {
            "overlap": torch.minimum(found / len(samples), shares).sum(),
            "modes": (found >= enough).sum(),
            "quality": (distance <= WITHIN).float().mean(),
        }

    def state(self) -> dict[str, Any]:
        """The clouds."""
        return {"centres": self.centres, "deviations": self.deviations, "shares": self.shares}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the clouds of a checkpoint."""
        self.centres, self.deviations, self.shares = state["centres"], state["deviations"], state["shares"]

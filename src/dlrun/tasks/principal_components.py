"""Principal component analysis: the best linear code, the baseline of every autoencoder.

With the covariance's K leading eigenvectors as columns of V, the code is V^T (x - mean) and the reconstruction is
mean + V V^T (x - mean); no linear network of K units has a smaller squared error on the examples it was fitted to
(P. Baldi, K. Hornik, "Neural networks and principal component analysis", 1989).

Shapes: N examples, B batch, F input values of one example, K components.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlrun.tasks import Source

MOST_VALUES = 4096  # input values up to which a covariance (F, F) is worth its memory
EXACT = 1024  # input values up to which all its eigenvectors are computed
MOST_DIRECTIONS = 256  # that are kept, also in a checkpoint: 4 MiB at most
SPARE, ROUNDS = 32, 30
WORK = 1e11  # multiply-adds that the covariance may cost, seconds of one core
ROWS = 2048  # examples of one product


class PrincipalComponents:
    """Mean and up to 256 principal directions of the training part.

    Up to 1,024 input values they are exact; up to 4,096 they come from a part of the examples (every second one, or
    fewer, so that it takes seconds) by subspace iteration; above that only the mean is learnt.
    """

    def __init__(self) -> None:
        self.mean = torch.zeros(0)
        self.directions = torch.zeros(0, 0)  # (F, K), the leading one first

    def fit(self, count: int, batches: Source) -> None:
        """Learn from ``count`` examples in one pass.

        A product of many examples is single precision, of values near zero: shifted by the first batch's mean. The sum
        of the products is double precision.
        """
        first = next(iter(batches()))[0].flatten(1).float()
        width, shift = first.shape[1], first.mean(0)
        stride = max(1, round(count * width**2 / WORK)) if EXACT < width <= MOST_VALUES else 1
        total = torch.zeros(width, dtype=torch.float64, device=first.device)
        products = total.new_zeros(width, width) if width <= MOST_VALUES else total.new_zeros(0, 0)
        waiting: list[Tensor] = []
        seen = 0
        for inputs, _ in batches():
            x = inputs[::stride].flatten(1).float() - shift  # (B, F)
            seen += len(x)
            total += x.double().sum(0)
            waiting.append(x)
            if len(products) and sum(map(len, waiting)) >= ROWS:
                products += _product(waiting)
            elif not len(products):
                waiting.clear()
        mean = total / seen
        self.mean = (mean + shift).float()
        self.directions = self.mean.new_zeros(width, 0)
        if len(products):
            products += _product(waiting)
            self.directions = _leading(products / seen - mean.outer(mean))

    def squared_errors(self, inputs: Tensor, components: int) -> Tensor:
        """Squared error of each reconstruction from ``components`` directions: (B, ...) -> (B,).

        Where fewer are known it is that of those; from none it is that of the mean.
        """
        if self.mean.device != inputs.device:
            self.mean, self.directions = self.mean.to(inputs.device), self.directions.to(inputs.device)
        x = inputs.flatten(1).float() - self.mean
        with torch.autocast(x.device.type, enabled=False):
            code = x @ self.directions[:, :components]
        return (x.square().sum(1) - code.square().sum(1)).clamp_min(0)  # Pythagoras: the directions are orthonormal

    def state(self) -> dict[str, Any]:
        """Mean (F,) and directions (F, K)."""
        return {"mean": self.mean, "directions": self.directions}

    def restore(self, state: dict[str, Any]) -> None:
        """Take those of a checkpoint."""
        self.mean, self.directions = state["mean"], state["directions"]


def _product(waiting: list[Tensor]) -> Tensor:
    """Sum of x x^T over the waiting rows, which are then forgotten: (F, F)."""
    x = torch.cat(waiting) if waiting else torch.zeros(0)
    waiting.clear()
    return x.t() @ x if len(x) else torch.zeros(())


def _leading(covariance: Tensor) -> Tensor:
    """The eigenvectors of the largest eigenvalues: (F, F) -> (F, K) float32."""
    width = len(covariance)
    kept = min(width, MOST_DIRECTIONS)
    if width <= EXACT:
        vectors: Tensor = torch.linalg.eigh(covariance)[1]  # by rising eigenvalue
        return vectors.flip(1)[:, :kept].float().contiguous()
    # Subspace iteration: multiplying turns any start towards the leading directions, the spare columns speed it up.
    c = covariance.float()
    basis = c[:, torch.arange(kept + SPARE, device=c.device) * width // (kept + SPARE)]
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(c @ basis)[0]
    turn: Tensor = torch.linalg.eigh(basis.t() @ c @ basis)[1]
    return basis @ turn.flip(1)[:, :kept]

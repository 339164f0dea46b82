"""The Frechet distance between two sets of examples, each taken for a normal distribution in some feature space.

|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): D. Dowson and B. Landau, "The Frechet distance between multivariate normal
distributions", 1982; M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017, for images.
Differs from the latter in: the feature space. It is that of a classifier that dlrun trained, or of the values
themselves, so numbers compare within one space alone and none of them is an FID.

Shapes: N examples, D features, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.tasks import Batch, Logs, Monitor
from dlrun.tasks.in_pieces import pieces

Features = Callable[[Tensor], Tensor]
SIDE = 16
CHUNK = 500


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) of features, in float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features (N, D); a single example has no covariance and gets 0."""
    values = features.double()
    mean = values.mean(dim=0)
    away = values - mean
    return Moments(mean, away.T @ away / max(1, len(values) - 1))


def frechet_distance(a: Moments, b: Moments) -> Tensor:
    """The distance, squared as the literature reports it; 0-d, float64.

    The eigenvalues of C1 C2 are those of S C2 S with S the symmetric root of C1, which is symmetric and so needs no
    complex numbers.
    """
    if not all(bool(part.isfinite().all()) for part in (a.mean, a.covariance, b.mean, b.covariance)):
        return torch.full((), torch.nan, dtype=torch.float64, device=a.mean.device)  # the run has diverged
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    distance: Tensor = apart + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return distance.clamp(min=0)


def plain_values(examples: Tensor) -> Tensor:
    """Examples (N, ...) as features (N, D): their values, of images averaged to at most 16 x 16 places."""
    if examples.dim() == 4:
        examples = F.adaptive_avg_pool2d(examples, (min(SIDE, examples.shape[2]), min(SIDE, examples.shape[3])))
    return examples.flatten(1)


class FrechetYardstick:
    """Judges generated examples by their Frechet distance from a part of the data.

    Attributes:
        features: (N, ...) in the network's range -> (N, D); None as long as a wanted classifier is not there.
    """

    names: tuple[str, ...] = ("frechet",)
    monitor = Monitor("frechet", higher_is_better=False)

    def __init__(self, features: Features | None) -> None:
        self.features = features

    def learn(self, batches: Iterable[Batch]) -> None:
        """Nothing: the part that is measured is the standard."""

    def judge(self, batches: Iterable[Batch], *sampled: Tensor) -> list[Logs]:
        """The distance of each set of examples (N, ...) from the part."""
        real = moments(torch.cat([self._of(inputs) for inputs, _ in batches]))
        return [{"frechet": frechet_distance(real, moments(self._in_chunks(samples)))} for samples in sampled]

    def _in_chunks(self, samples: Tensor) -> Tensor:
        """Features (N, D) of examples."""
        return torch.cat([self._of(chunk) for chunk in pieces(samples.split(CHUNK))])

    def _of(self, examples: Tensor) -> Tensor:
        assert self.features is not None, "dlrun.feature_classifier provides the classifier before an evaluation"
        return self.features(examples)

    def state(self) -> dict[str, Any]:
        """Nothing was learnt."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""

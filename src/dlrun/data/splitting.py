"""Seeded, stratified splits: which examples are held out is a function of the seed and the labels alone."""

from __future__ import annotations

import torch
from torch import Tensor

from dlrun.errors import ConfigError


def held_out_count(n: int, share: float) -> int:
    """Return how many of ``n`` examples ``split_indices`` holds out: ``n * share`` rounded, and never all of them.

    A share above 0 holds out at least one example where there are two.

    Raises:
        ConfigError: the share is not in [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise ConfigError(
            f"a share of {share} cannot be held out: data.val and data.test are shares in [0, 1), such as 0.1."
        )
    return min(max(round(n * share), 1 if share > 0 else 0), max(n - 1, 0))


def split_indices(n: int, share: float, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Split the indices 0 .. n-1 by a seeded permutation into (kept, held out), both sorted int64 tensors.

    With ``labels`` (n,) int64 the split is stratified: each class gives its share to within one example (largest
    remainder), the total stays ``held_out_count(n, share)``, and a class is used up only when nothing else is left.

    Raises:
        ConfigError: the share is not in [0, 1).
    """
    total = held_out_count(n, share)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(n, dtype=torch.bool)
    if labels is None:
        held[order[:total]] = True
    else:
        _, classes, counts = labels.unique(return_inverse=True, return_counts=True)
        for group, quota in enumerate(_quotas(counts.tolist(), total)):
            held[order[classes[order] == group][:quota]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _quotas(counts: list[int], total: int) -> list[int]:
    """Share ``total`` among classes of the given sizes by the method of largest remainders."""
    n = sum(counts)
    quotas = [count * total // n for count in counts]  # in whole numbers, so that no rounding error moves an example
    by_need = sorted(
        (group for group, count in enumerate(counts) if quotas[group] < count),
        key=lambda group: (counts[group] - quotas[group] == 1, -(counts[group] * total % n), group),
    )
    for group in by_need[: total - sum(quotas)]:
        quotas[group] += 1
    return quotas

"""Means over the processes of a run, weighted by how many examples each of them had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20  # what torch's DistributedDataParallel sends at once


class Exchange:
    """Puts the mean gradient of the whole batch in the place of the gradient of this process's part of it.

    With n_r examples and the mean gradient g_r on process r, sum(n_r g_r) / sum(n_r) is the mean gradient over all
    examples, whatever the algorithm computed it by. Differs from torch's DistributedDataParallel in: 1. the parts may
    differ in size; 2. nothing of the model is wrapped, so a model is used through any of its methods; 3. it sends after
    the backward pass and not during it.
    """

    def __init__(self) -> None:
        self.count = 1  # examples of this process in the step that is taken

    def __call__(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors in place."""
        average(tensors, self.count)


@torch.no_grad()
def average(tensors: Sequence[Tensor], count: int) -> None:
    """Put into each tensor its mean over the processes, this one's weighing ``count``; shapes are equal everywhere."""
    for bucket in _buckets(tensors):
        sizes = [tensor.numel() for tensor in bucket]
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).mul_(count)
        flat = torch.cat([flat, flat.new_full((1,), count)])
        dist.all_reduce(flat)
        means = flat[:-1] / flat[-1]
        views = [part.view_as(tensor) for part, tensor in zip(means.split(sizes), bucket, strict=True)]
        torch._foreach_copy_(bucket, views)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, grouped by number format, each group of about 25 MB."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    for kind in kinds.values():
        bucket: list[Tensor] = []
        held = 0
        for tensor in kind:
            bucket.append(tensor)
            held += tensor.numel() * tensor.element_size()
            if held >= BUCKET_BYTES:
                yield bucket
                bucket, held = [], 0
        if bucket:
            yield bucket


@torch.no_grad()
def make_equal(model: nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach(), 0)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances of batch normalisation that each process gathers for itself."""
    kinds = nn.modules.batchnorm._BatchNorm
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, kinds) and not isinstance(module, nn.SyncBatchNorm):
            found += [b for b in (module.running_mean, module.running_var) if b is not None]
    return found


def average_after(logs: dict[str, Tensor], statistics: Sequence[Tensor], count: int) -> dict[str, Tensor]:
    """The logs of the whole batch; the running statistics are averaged in place, in the same message."""
    values = torch.stack([value.detach().float() for value in logs.values()]) if logs else torch.zeros(0)
    average([values, *statistics] if len(values) else list(statistics), count)
    return dict(zip(logs, values.unbind(), strict=True))

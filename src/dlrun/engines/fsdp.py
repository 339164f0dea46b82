"""The step on several processes that share one network: each holds a part of every weight (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlrun.algorithms import Algorithm
from dlrun.distributed.averaging import Exchange, make_equal, running_statistics
from dlrun.distributed.group import Together, current
from dlrun.engines import Step
from dlrun.engines.ddp import shared_step
from dlrun.tasks import Batch
from dlrun.training.updater import Updater

LARGE = 1_000_000  # weights from which a layer outside a list of blocks is gathered and let go by itself


class Fsdp:
    """Weights, gradients and optimizer state lie in parts on the processes; alone it is the step as it is written.

    Each block of an ``nn.ModuleList``, and each other layer of a million weights, is gathered when it computes and let
    go afterwards (Rajbhandari et al. 2020, ZeRO stage 3; torch's ``fully_shard``). Differs from it in: the gradient is
    the mean over the examples of all processes, also where these have different numbers of them.
    """

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's step on a network that is distributed from here on, and its optimizer with it."""
        peers = current()
        if peers is None:
            return algorithm.step
        model: nn.Module = algorithm.model
        whole: Any = getattr(algorithm, "inner", algorithm)
        make_equal(model)
        if peers.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        _distribute(model, peers, getattr(whole.autocast, "fast_dtype", None))
        assert isinstance(algorithm.updater, Updater), "the check has refused an algorithm of several networks"
        _move(algorithm.updater, names, dict(model.named_parameters()))
        counted = _Counted(whole.forward, peers)
        whole.forward = counted
        return _reported(algorithm, peers, counted, model)


def _distribute(model: nn.Module, peers: Together, low: torch.dtype | None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(peers.device.type, (peers.size,))
    policy = MixedPrecisionPolicy()
    if low is not None:
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, output_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts of a network that are gathered one at a time, none inside another."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            listed = isinstance(module, nn.ModuleList)
            own = sum(p.numel() for p in child.parameters())
            if own and (listed or (own >= LARGE and not list(child.children()))):
                found.append(child)
            else:
                look(child)

    look(model)
    return found


def _move(updater: Updater, names: dict[int, str], now: dict[str, nn.Parameter]) -> None:
    """Give the optimizer, which has no state yet, the distributed parameters in the place of the whole ones."""
    for group in updater.optimizer.param_groups:
        group["params"] = [now[names[id(parameter)]] for parameter in group["params"]]
    updater.parameters[:] = [p for group in updater.optimizer.param_groups for p in group["params"]]


class _Counted:
    """The forward pass with the loss weighted by this process's share of the examples.

    FSDP divides the sum of the gradients by the number of processes R, so a loss of n_r of n examples counts R n_r / n.
    """

    def __init__(self, forward: Any, peers: Together) -> None:
        self.forward, self.size, self.device = forward, peers.size, peers.device
        self.share = torch.ones((), device=peers.device)

    def count(self, examples: int) -> None:
        """Tell the others how many examples this process has in this step."""
        total = torch.full((), float(examples), device=self.device)
        dist.all_reduce(total)
        self.share = examples * self.size / total

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = self.forward(batch)
        return loss * self.share, logs


def _reported(algorithm: Algorithm, peers: Together, counted: _Counted, model: nn.Module) -> Step:
    step = shared_step(algorithm, peers, Exchange(), running_statistics(model))

    def whole_step(batch: Batch) -> dict[str, Tensor]:
        with peers.explained():
            counted.count(len(batch[0]))
        return step(batch)

    return whole_step

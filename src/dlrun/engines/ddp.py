"""The step on several processes, each with the whole network and a part of every batch."""

from __future__ import annotations

from torch import Tensor, nn

from dlrun.algorithms import Algorithm, updaters
from dlrun.distributed.averaging import Exchange, average_after, make_equal, running_statistics
from dlrun.distributed.group import Together, current
from dlrun.engines import Step
from dlrun.tasks import Batch


class Ddp:
    """Averages the gradients over the processes before every update; alone it is the step as it is written.

    Batch normalisation looks at the whole batch on GPUs (``SyncBatchNorm``). On the CPU, which has no such kernel, it
    looks at each process's part; the running statistics are averaged after every step.
    """

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's step; its updaters average what they move the weights by."""
        peers = current()
        if peers is None:
            return algorithm.step
        exchange = Exchange()
        for updater in updaters(algorithm).values():
            updater.exchange = exchange
        model: nn.Module = algorithm.model
        make_equal(model)
        if peers.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return shared_step(algorithm, peers, exchange, running_statistics(model))


def shared_step(algorithm: Algorithm, peers: Together, exchange: Exchange, statistics: list[Tensor]) -> Step:
    """The step with random numbers of its own on every process, and with the logs of the whole batch."""

    def step(batch: Batch) -> dict[str, Tensor]:
        exchange.count = len(batch[0])
        peers.begin_step()
        with peers.explained():
            return average_after(algorithm.step(batch), statistics, exchange.count)

    return step

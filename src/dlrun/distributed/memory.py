"""One copy of large resident data for all processes of a machine."""

from __future__ import annotations

import math
import os
import sys

import torch
from torch import Tensor

from dlrun.distributed.group import Together
from dlrun.errors import DataError

SHARED_FROM = 256 * 2**20  # bytes; less is not worth the wait for one another


class Shared:
    """Puts large tensors of the CPU where all processes of the machine read the same memory.

    Each process loads and preprocesses the data for itself, so that for a moment there are as many copies; then all but
    one are dropped. The memory has no name in any file system: it is gone with the last process, however that ends.
    Where there is no such memory (not on Linux) every process keeps its own. All processes call this with tensors of
    equal shapes in the same order.
    """

    def __init__(self, peers: Together) -> None:
        self.peers = peers
        self._count = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or the machine's one copy of it.

        Raises:
            DataError: another process ended meanwhile.
        """
        size = tensor.numel() * tensor.element_size()
        if tensor.device.type != "cpu" or size < max(1, SHARED_FROM) or self.peers.local_size == 1:
            return tensor
        if sys.platform != "linux":
            return tensor
        self._count += 1
        messages, machine = self.peers.messages, self.peers.rank - self.peers.local_rank
        key, descriptor = f"shared/{machine}/{self._count}", -1
        if self.peers.local_rank == 0:
            descriptor = os.memfd_create("dlrun")
            os.ftruncate(descriptor, size)
            _mapped(f"/proc/{os.getpid()}/fd/{descriptor}", tensor).copy_(tensor)
            messages.tell(key, f"/proc/{os.getpid()}/fd/{descriptor}")
        path = messages.wait(key)
        if path is None:
            raise self.peers.lost() or DataError("the first process of this machine has put no data into memory")
        shared = _mapped(path, tensor)
        messages.tell(f"{key}/{self.peers.local_rank}", "mapped")
        if descriptor >= 0:
            for local_rank in range(self.peers.local_size):
                messages.wait(f"{key}/{local_rank}")
            os.close(descriptor)
        return shared


def _mapped(path: str, like: Tensor) -> Tensor:
    """The memory behind a path, as a tensor of the shape and kind of another."""
    flat = torch.from_file(path, shared=True, size=math.prod(like.shape), dtype=like.dtype)
    return flat.view(like.shape)

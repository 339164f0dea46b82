"""Large resident data lies in memory once for all processes of a machine."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dlrun.distributed import memory
from dlrun.distributed.memory import Shared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory without a name is Linux's")


class Board:
    """Texts under keys, for threads in the place of processes."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.news = threading.Condition()

    def tell(self, key: str, text: str) -> None:
        with self.news:
            self.texts[key] = text
            self.news.notify_all()

    def wait(self, key: str) -> str:
        with self.news:
            assert self.news.wait_for(lambda: key in self.texts, 30)
            return self.texts[key]


def shared_by_two(tensor: Tensor) -> list[Tensor]:
    board, found = Board(), cast("list[Tensor]", [tensor, tensor])

    def one(rank: int) -> None:
        peers: Any = SimpleNamespace(rank=rank, local_rank=rank, local_size=2, messages=board)
        found[rank] = Shared(peers)(tensor.clone())

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_a_large_tensor_is_held_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHARED_FROM", 1)
    tensor = torch.arange(60).reshape(3, 4, 5).to(dtype)
    first, second = shared_by_two(tensor)
    assert torch.equal(first, tensor)
    assert torch.equal(second, tensor)
    first[0, 0, 0] = 77  # what one writes the other reads: it is the same memory
    assert second[0, 0, 0] == 77


def test_a_small_tensor_is_left_alone() -> None:
    first, second = shared_by_two(torch.zeros(3))
    first[0] = 1
    assert second[0] == 0

"""What one process among several keeps and says, without the others."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from dlrun.distributed import group, joining
from dlrun.distributed.group import Together
from dlrun.distributed.messages import Messages
from dlrun.distributed.world import World
from dlrun.errors import ConfigError
from dlrun.many_devices import notes
from dlrun.training.signals import StopFlag


class Kept:
    """A store in this process."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.texts[key] = value

    def get(self, key: str) -> bytes:
        return self.texts[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.texts for key in keys)

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        return self.texts.setdefault(key, desired).encode()


def world(rank: int = 0) -> World:
    return World(rank, 2, rank, 2, "localhost", 1)


def together(store: Kept, rank: int = 0) -> Together:
    return Together(world(rank), Messages(store, rank, lambda: None), torch.device("cpu"))


def test_a_wish_is_granted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group.dist, "all_reduce", lambda *_, **__: None)
    peers = together(Kept())
    assert not peers.wished(True)
    peers._ask()
    assert peers.wished(True)  # the clock still says due; the save that follows sets it back
    peers._next = 0
    peers._ask()
    assert not peers.wished(False)


def test_neighbours_share_machine_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def neighbours(place: str) -> dict[int, int]:
        store = Kept()
        store.set("dlrun/process/1", f"{place} 77")
        return joining._neighbours(Messages(store, 0, lambda: None), world())

    here = joining._place()
    assert neighbours(here) == {1: 77}
    monkeypatch.setattr(os, "readlink", lambda _: "pid:[1]")
    assert neighbours(here) == ({} if os.path.exists("/proc/self/ns/pid") else {1: 77})  # noqa: PTH110


@pytest.mark.parametrize("number", [0, 15])
def test_a_signal_in_the_first_one_s_turn_stops_the_others(number: int) -> None:
    def never() -> int:
        raise AssertionError("asked while the others wait")

    store = Kept()
    turns: list[tuple[int, bool]] = []
    for rank in (0, 1):
        stop = StopFlag(never)
        peers: Any = together(store, rank)

        def work(first: bool, stop: StopFlag = stop, rank: int = rank) -> None:
            turns.append((rank, first))
            stop.number = number

        peers.in_turn(work, stop)
        assert stop.number == number
    assert turns == ([(0, True)] if number else [(0, True), (1, False)])


def test_a_failure_of_one_process_asks_no_other() -> None:
    from dlrun.training.trainer import Trainer

    def broken() -> None:
        raise RuntimeError("out of luck")

    asked: list[int] = []
    for size in (1, 2):
        alone = SimpleNamespace(peers=SimpleNamespace(size=size), check_finite=lambda size=size: asked.append(size))
        with pytest.raises(RuntimeError, match="out of luck"):
            Trainer.guarded(cast(Trainer, alone), broken)
    assert asked == [1]


def test_batch_normalisation_on_the_cpu_wants_two_examples_in_each_process() -> None:
    def noted(batch: int, model: nn.Module) -> list[str]:
        node = {"engine": {"_target_": "dlrun.engines.ddp.Ddp"}}
        settings = SimpleNamespace(devices=2)
        found = SimpleNamespace(settings=settings, device=torch.device("cpu"), batch_size=batch, node=node)
        return notes(cast(Any, found), model)

    assert len(noted(4, nn.BatchNorm1d(2))) == 1
    assert not noted(3, nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"at least trainer\.batch_size=4"):
        noted(3, nn.BatchNorm1d(2))

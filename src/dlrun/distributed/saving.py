"""Checkpoints of several processes: gathered by all, written by the first, loaded by each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from dlrun.distributed.group import Together
from dlrun.training.callbacks import Callback, Saver
from dlrun.training.checkpoint import Checkpoints, decode, encode
from dlrun.training.state import RANKS

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer


class SharedCheckpoints:
    """Gathers a state from all processes; only the first one has ``inner`` to write it with."""

    def __init__(self, inner: Checkpoints | None, peers: Together) -> None:
        self.inner, self.peers = inner, peers

    def save(self, step: int, state: dict[Any, Any]) -> None:
        """Save the state of ``step``, with what the algorithm carries on each process."""
        with self.peers.explained():
            whole = gathered(state)
            each = states_of_all(state["algorithm"], self.peers)
        if self.inner is not None:
            self.inner.save(step, whole | {RANKS: each})

    def save_best(self, step: int, state: dict[Any, Any]) -> None:
        """Save the best network."""
        with self.peers.explained():
            whole = gathered(state)
        if self.inner is not None:
            self.inner.save_best(step, whole)


def gathered(state: Any) -> Any:
    """The state with every distributed tensor whole; all processes take part."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gathered(value) for value in state)
    return state


def states_of_all(state: dict[str, Any], peers: Together) -> list[dict[str, Any]]:
    """Each process's own state, in the order of the processes; sent as the bytes of a checkpoint."""
    mine = torch.frombuffer(bytearray(b"".join(bytes(chunk) for chunk in encode(state))), dtype=torch.uint8)
    sizes = [torch.zeros((), dtype=torch.int64) for _ in range(peers.size)]
    dist.all_gather(sizes, torch.tensor(len(mine)))
    longest = int(torch.stack(sizes).max())
    sent = torch.zeros(longest, dtype=torch.uint8)
    sent[: len(mine)] = mine
    texts = [torch.empty_like(sent) for _ in range(peers.size)]
    dist.all_gather(texts, sent)
    return [_read(text[: int(size)]) for text, size in zip(texts, sizes, strict=True)]


def _read(text: Tensor) -> dict[str, Any]:
    data = text.numpy().tobytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, Any] = decode(Path("(another process)"), data, header["__metadata__"])
    return found


class SharedSaver(Callback):
    """Saves on all processes at the same steps: the first one's clock says when, and the others are told.

    Args:
        saver: writes through ``SharedCheckpoints``.
        peers: the processes.
    """

    def __init__(self, saver: Saver, peers: Together) -> None:
        self.saver, self.peers = saver, peers
        self.every = saver.every

    def on_start(self, trainer: Trainer) -> None:
        """A resumed run's step and best network are on disk already."""
        self.saver.on_start(trainer)

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        """Save when due."""
        if self.saver.every:
            due = trainer.step % self.saver.every == 0
        else:
            due = self.peers.wished(time.perf_counter() >= self.saver.due)
        if due:
            self.saver.save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """The last state is always saved."""
        self.saver.on_end(trainer)


def spread(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state as this process loads it: with its parts of distributed tensors."""
    network = spread_network(trainer, state["model"])
    if "updater" not in state:
        return state | {"model": network}
    parameters = trainer.updater.parameters
    updater = dict(state["updater"])
    if any(isinstance(p, DTensor) for p in parameters):
        optimizer = updater["optimizer"]
        order = [index for group in optimizer["param_groups"] for index in group["params"]]
        own = dict(zip(order, parameters, strict=True))
        moments = {
            index: {name: like(value, own[index]) for name, value in values.items()}
            for index, values in optimizer["state"].items()
        }
        updater["optimizer"] = optimizer | {"state": moments}
    return state | {"updater": updater, "model": network}


def spread_network(trainer: Trainer, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint, distributed as the network's own are."""
    own = trainer.model.state_dict()
    return {name: like(value, own.get(name)) for name, value in weights.items()}


def like(value: Any, own: Any) -> Any:
    """A whole tensor distributed as ``own`` is; anything else as it is."""
    if isinstance(own, DTensor) and isinstance(value, Tensor) and value.shape == own.shape:
        placed = value.to(own.device)
        return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)
    return value

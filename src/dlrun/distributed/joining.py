"""Joining the other processes of a run, watching whether they live, and leaving together."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dlrun.distributed.group import JOINED, Together
from dlrun.distributed.messages import Messages
from dlrun.distributed.watch import DeathWatch
from dlrun.distributed.world import World
from dlrun.errors import DlrunError

TIMEOUT = timedelta(hours=2)  # of one collective; a process that dies is noticed long before


@contextmanager
def joined(world: World) -> Iterator[Together]:
    """Meet the other processes, and leave together at the end of the context."""
    os.environ.update(world.variables())
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", world.local_rank) if cuda else torch.device("cpu")
    if cuda and world.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    store = dist.distributed_c10d._get_default_store()
    messages = Messages(store, world.rank, lambda: peers._watch_lost())
    peers = Together(world, messages, device)
    watch = DeathWatch(_neighbours(messages, world), lambda rank: _end(peers, rank), os.getppid())
    peers._watch_lost = watch.lost
    watch.start()
    JOINED.append(peers)
    try:
        yield peers
        with peers.explained():
            dist.all_reduce(torch.zeros(()))  # nobody leaves before all are ready to
    finally:
        watch.stop()
        JOINED.pop()
    dist.destroy_process_group()


def _neighbours(messages: Messages, world: World) -> dict[int, int]:
    """Process numbers of the other ranks on this machine."""
    here = _place()
    messages.tell(f"process/{world.rank}", f"{here} {os.getpid()}")
    found = {}
    for rank in range(world.size):
        text = messages.wait(f"process/{rank}")
        place, _, pid = (text or "").rpartition(" ")
        if rank != world.rank and place == here:
            found[rank] = int(pid)
    return found


def _place() -> str:
    """Where this process's number means something: the machine, and on Linux its container on it."""
    names = [socket.gethostname()]
    with suppress(OSError):
        names += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(names)


def _end(peers: Together, rank: int) -> None:
    """The last words of a process whose main thread waits for a dead one."""
    lost = peers.obituary(rank)
    if peers.run is not None:
        with suppress(DlrunError, OSError):
            peers.run.write_record(status="failed", exit_code=lost.exit_code, error=f"PeerLostError: {lost}")
    if peers.messages.failure() is None and peers.messages.fail(str(lost), lost.exit_code):
        print("error:", lost, file=sys.stderr, flush=True)

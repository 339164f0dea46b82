"""The launcher: where the processes meet."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from dlrun.distributed.launch import local_store

TCP = Path("/proc/net/tcp")
LISTENS = "0A"


def addresses(port: int) -> set[str]:
    """The addresses, in hexadecimal, at which something listens on a port."""
    found = set()
    for table in (TCP, TCP.with_name("tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == LISTENS and int(number, 16) == port:
                found.add(address)
    return found


@pytest.mark.skipif(not TCP.exists(), reason="needs Linux's list of sockets")
def test_the_store_is_reached_from_this_machine_alone() -> None:
    planted = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torch's own way
    assert addresses(planted.port) - {"0100007F"}
    store = local_store()
    assert addresses(store.port) == {"0100007F"}


def test_torch_s_launcher_finds_the_store_under_its_port() -> None:
    store = local_store()
    again = TCPStore("127.0.0.1", store.port, 1, True, timedelta(seconds=10), multi_tenant=True)
    again.set("key", "value")
    assert store.get("key") == b"value"

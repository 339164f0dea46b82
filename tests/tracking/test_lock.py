"""The lock inside one process; tests/torture/test_two_processes.py has the fights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlrun.errors import LockedError, StorageError
from dlrun.tracking import lock


def free_for_others(path: Path) -> bool:
    """Whether another process would get the lock."""
    child = os.fork()
    if child == 0:
        os._exit(1 if lock.is_held(path) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_held_and_released(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not lock.is_held(path)
    lock.acquire(path)
    assert lock.is_held(path)
    assert not free_for_others(path)
    lock.release(path)
    lock.release(path)
    assert not lock.is_held(path)
    assert free_for_others(path)


def test_looking_at_ones_own_lock_does_not_drop_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    lock.acquire(path)
    assert lock.is_held(path)
    assert lock.holder(path)["pid"] == os.getpid()
    with pytest.raises(LockedError, match=f"this very process, {os.getpid()}"):
        lock.acquire(tmp_path / "." / "run.lock")
    assert not free_for_others(path)
    lock.release(path)


def test_opening_the_file_elsewhere_would_drop_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    lock.acquire(path)
    path.read_bytes()
    assert free_for_others(path), "the trap is gone: the care taken in lock.py is no longer needed"
    lock.release(path)


def test_a_lock_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot open the lock"):
        lock.acquire(tmp_path / "run.lock")
    assert not lock.is_held(tmp_path / "run.lock")
    assert lock.holder(tmp_path / "run.lock") == {}


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"{"])
def test_content_is_for_messages_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.lock"
    path.write_bytes(content)
    assert lock.holder(path) == {}
    assert not lock.is_held(path)
    lock.acquire(path)
    assert lock.holder(path)["pid"] == os.getpid()
    lock.release(path)

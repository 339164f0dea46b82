"""The durable write, one refusal at a time; tests/torture has the crashes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dlrun.errors import StorageError
from dlrun.tracking.durable import CHUNK, Disk, open_regular, read_small, replace, require_space, sweep_temporaries


class Failing(Disk):
    """A disk of which one method fails, or gives back other bytes."""

    def __init__(self, method: str) -> None:
        self.method = method

    def __getattribute__(self, name: str):
        if name == object.__getattribute__(self, "method"):

            def fail(*_: object) -> bytes:
                if name == "read":
                    return b"x"
                raise OSError(errno.EIO, "Input/output error")

            return fail
        return object.__getattribute__(self, name)


def test_chunks_of_any_size_are_written_whole(tmp_path: Path) -> None:
    chunks = [b"a", b"", os.urandom(CHUNK + 7), memoryview(os.urandom(2 * CHUNK))]
    assert replace(tmp_path / "a", chunks) == 3 * CHUNK + 8
    assert (tmp_path / "a").read_bytes() == b"".join(chunks)
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


@pytest.mark.parametrize("method", ["create", "write", "sync", "read", "close", "rename", "free"])
def test_a_refusal_keeps_the_old_file_and_leaves_no_temporary(tmp_path: Path, method: str) -> None:
    path = tmp_path / "a"
    replace(path, [b"old"])
    with pytest.raises(StorageError, match=f"cannot write {path}: .*it needs 0.0 MB.*--outputs") as caught:
        replace(path, [b"new"], Failing(method))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_does_not_sync_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        replace(tmp_path / "a", [b"new"], Failing("sync_folder"))


def test_short_writes_go_on_and_empty_ones_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    replace(tmp_path / "a", [b"0123456789"])
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    monkeypatch.setattr(os, "write", lambda fd, data: 0)
    with pytest.raises(StorageError, match="took no bytes"):
        replace(tmp_path / "a", [b"new"])


def test_space_is_asked_for_before(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"needs 1000000000000\.0 MB and \d+\.\d MB is free"):
        require_space(tmp_path / "a", 10**18)


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    replace(tmp_path / "a", [b"new"])
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        replace(tmp_path / "absent" / "a", [b""])


def test_only_ordinary_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name, reason in (("pipe", "not an ordinary file"), ("link", "symbolic link"), (".", "not an ordinary file")):
        with pytest.raises(OSError, match=reason), open_regular(tmp_path / name):
            pass


def test_small_files_have_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_small(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="more than"):
        read_small(tmp_path / "a", 4)


def test_sweeping_an_absent_folder_is_nothing(tmp_path: Path) -> None:
    sweep_temporaries(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []

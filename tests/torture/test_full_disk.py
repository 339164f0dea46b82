"""A full disk: one sentence with the file, the megabytes needed and free; what was saved before stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dlrun.errors import StorageError
from dlrun.tracking.durable import Disk
from dlrun.tracking.history import History
from dlrun.training.checkpoint import Checkpoints

MEGABYTE = 250_000  # float32 numbers in a megabyte


def state(megabytes: int) -> dict:
    return {"weight": torch.ones(megabytes * MEGABYTE), "size": megabytes}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(folder)]
    try:
        failed = subprocess.run(mount, capture_output=True, check=False).returncode
    except FileNotFoundError:
        failed = 1
    if failed:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_little_space_is_refused_before_a_byte_is_written(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk)
    checkpoints.save(1, state(2))
    with pytest.raises(StorageError, match=r"step-00000002\.ckpt: it needs 4\.0 MB and 3\.\d MB is free"):
        checkpoints.save(2, state(4))
    assert [path.name for path in small_disk.iterdir()] == ["step-00000001.ckpt"]
    found = checkpoints.newest()
    assert found is not None
    assert found[0]["size"] == 2


class Optimist(Disk):
    """A disk that fills up between the question and the write."""

    def free(self, folder: Path) -> int:
        return 1 << 40


def test_a_disk_that_fills_while_writing_leaves_nothing_behind(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk, disk=Optimist())
    checkpoints.save(1, state(2))
    with pytest.raises(StorageError, match=r"No space left on device \(it needs 4\.0 MB"):
        checkpoints.save(2, state(4))
    assert [path.name for path in small_disk.iterdir()] == ["step-00000001.ckpt"]


def test_a_full_disk_never_stops_the_history_and_tears_no_line(small_disk: Path) -> None:
    history = History(small_disk / "history.jsonl")
    history.append({"step": 0})
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        while True:
            try:
                os.write(file.fileno(), bytes(4096))
            except OSError:
                break
    for step in range(1, 200):
        history.append({"step": step, "text": "x" * 100})
    assert history.lost > 0
    assert len(history.notes) == 1
    assert "No space left" in history.notes[0]
    filler.unlink()
    history.append({"step": 200})
    history.close()
    steps = [row["step"] for row in history.rows()]
    assert steps == [*range(len(steps) - 1), 200]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dlrun.errors import StorageError
from dlrun.training.container import Entry, pack
from dlrun.training.shelf import Shelf
shelf = Shelf(Path(sys.argv[2]))
for step, size in enumerate((50_000, 200_000), start=1):
    try:
        shelf.save(step, pack([Entry("w", "U8", (size,), bytes(size))], "{}", step))
    except StorageError as error:
        print(error)
print(shelf.newest()[2].name, sorted(path.name for path in Path(sys.argv[2]).iterdir()))
"""


def test_a_limit_on_the_size_of_files_is_a_sentence(tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "src"
    command = [sys.executable, "-c", LIMITED, str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    refusal, rest = done.stdout.splitlines()
    assert refusal.startswith(f"cannot write {tmp_path}/step-00000002.ckpt: File too large (it needs 0.2 MB")
    assert rest == "step-00000001.ckpt ['step-00000001.ckpt']"

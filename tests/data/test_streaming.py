import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from dlrun.data import Examples
from dlrun.data.batches import Batches
from dlrun.data.streaming import Streamed, Waiting, split
from dlrun.errors import MemoryExhaustedError

CPU = torch.device("cpu")
# Python 3.12 and later remark on any fork of a process with threads; torch's own loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Workers(Dataset):
    """Items that name the process that read them, and draw a number."""

    def __init__(self, n=23, deadly=None):
        self.n, self.deadly, self.targets = n, deadly, torch.arange(n)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([os.getpid(), torch.rand(()).item()], dtype=torch.float64), self.targets[index]


def same(inputs):
    return inputs


def stream(workers, **settings):
    return Batches(Workers(**settings), preprocess=same, batch_size=4, device=CPU, seed=0, workers=workers)


def read(batches):
    inputs, targets = zip(*batches, strict=True)
    inputs = torch.cat(inputs)
    return set(inputs[:, 0].int().tolist()), inputs[:, 1], torch.cat(targets)


def test_workers_stay_for_the_next_epoch_and_change_no_bit():
    helped, alone = stream(2), stream(0)
    pids = []
    for epoch, start in ((0, 0), (1, 0), (2, 3), (0, 0)):
        processes, draws, targets = read(helped.epoch(epoch, start))
        _, expected, known = read(alone.epoch(epoch, start))
        assert torch.equal(draws, expected)
        assert torch.equal(targets, known)
        pids.append(processes)
    assert len(pids[0]) == 2
    assert pids == pids[:1] * 4
    assert os.getpid() not in pids[0]


def test_workers_stay_between_training_and_evaluation_order():
    batches = stream(2)
    first, _, _ = read(batches.epoch(0))
    second, _, targets = read(batches.in_order())
    assert first == second
    assert targets.tolist() == list(range(23))


def test_workers_end_with_what_they_read_for():
    before = set(active_children())
    batches = stream(2)
    read(batches.epoch(0))
    assert len(set(active_children()) - before) == 2
    del batches
    assert set(active_children()) <= before


def test_workers_end_when_told():
    before = set(active_children())
    source = Streamed(Workers(), same, CPU, 2)
    list(source.in_order(4))
    assert len(set(active_children()) - before) == 2
    source.close()
    assert set(active_children()) <= before
    assert len(list(source.in_order(4))) == 6


def test_two_runs_over_the_same_data_do_not_mix_their_batches():
    batches = stream(1)
    other = batches.under(5)
    expected = [read(stream(0).epoch(1))[2], read(stream(0).under(5).epoch(1))[2]]
    pairs = list(zip(batches.epoch(1), other.epoch(1), strict=True))
    for place, known in enumerate(expected):
        assert torch.equal(torch.cat([pair[place][1] for pair in pairs]), known)


def test_no_more_workers_than_batches():
    before = set(active_children())
    batches = Batches(Workers(6), preprocess=same, batch_size=6, device=CPU, seed=0, workers=4)
    read(batches.in_order())
    assert len(set(active_children()) - before) == 1


def test_a_worker_that_is_killed_ends_the_run_with_a_sentence():
    with pytest.raises(MemoryExhaustedError, match=r"fewer trainer\.workers .* --shm-size"):
        read(stream(2, deadly=11).in_order())
    assert not active_children()


SCRIPT = """
import sys, torch
torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 0.5  # how often a worker looks whether its parent is there
sys.path.insert(0, sys.argv[1])
from test_streaming import stream, read
batches = stream(2)
print(*read(batches.epoch(0))[0], flush=True)
input()
"""


def started():
    """A process whose two workers wait for the next epoch: the process, and the workers' numbers."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(Path(__file__).parent)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, [int(word) for word in process.stdout.readline().split()]


def gone(pids, seconds):
    """Whether the processes end within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks processes up in /proc")
def test_a_process_that_ends_leaves_no_worker_and_says_nothing():
    process, pids = started()
    assert len(pids) == 2
    _, said = process.communicate("\n", timeout=60)
    assert (process.returncode, said) == (0, "")
    assert gone(pids, 5)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks processes up in /proc")
def test_a_process_that_is_killed_leaves_no_worker():
    process, pids = started()
    assert len(pids) == 2
    process.kill()
    process.communicate(timeout=60)
    assert gone(pids, 20)


def test_waits_are_counted_from_one_asking_to_the_next(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 10.5, 20.0, 21.0])
    monkeypatch.setattr("dlrun.data.streaming.time.perf_counter", lambda: next(clock))
    waiting = Waiting()
    batches = waiting.timed(iter("ab"))
    assert next(batches) == "a"
    assert waiting.taken() == 2.0
    assert list(batches) == ["b"]
    assert waiting.taken() == 1.5
    assert waiting.taken() == 0.0


def test_only_the_training_order_of_a_stream_is_timed():
    batches = stream(0)
    list(batches.in_order())
    assert batches.waited() == 0.0
    list(batches.epoch(0))
    assert batches.waited() > 0.0
    assert batches.workers == 0
    held = Batches(Examples(torch.zeros(4, 1), torch.zeros(4)), preprocess=same, batch_size=2, device=CPU, seed=0)
    list(held.epoch(0))
    assert held.waited() is None
    assert held.workers is None


@pytest.mark.parametrize(("size", "parts"), [(4, 2), (16, 8), (12, 3), (2, 2)])
def test_no_part_of_a_batch_has_one_example_and_each_counts_the_same(size: int, parts: int) -> None:
    for examples in range(size, 3 * size):
        each = [split(torch.arange(examples), size, 0, (number, parts)) for number in range(parts)]
        for batch, whole in zip(zip(*each, strict=True), split(torch.arange(examples), size, 0), strict=True):
            assert all(len(part) >= min(2, size // parts) for part in batch)
            times = torch.bincount(torch.cat(batch))
            assert len(set(times[whole].tolist())) == 1
            assert int(times.sum()) == sum(len(part) for part in batch) >= len(whole)

"""Freed memory stays with the process: counted in page faults, which are not a matter of time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from dlrun.training.heap import CHOSEN_BY_USER

# By its defaults glibc maps a tensor of 64 MiB anew each time (mallopt(3): it adapts up to 32 MiB).
COUNT = """
import resource, sys, torch
from dlrun.training.heap import keep_freed_memory
torch.set_num_threads(1)
kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(12):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(2**24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 3 * 2**26 // 2**12  # of 4 KiB


def faults(way: str, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and page faults of three steps."""
    clean = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY_USER}
    words = [sys.executable, "-c", COUNT, way]
    done = subprocess.run(words, env=clean | environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return bool(int(kept)), int(count)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or int(platform.libc_ver()[1].split(".")[1]) < 35, reason="another allocator"
)
def test_a_step_finds_the_memory_of_the_step_before() -> None:
    _, without = faults("leave")
    assert without > PAGES // 2, "the default maps anew, which is what there is to mend"
    kept, count = faults("keep")
    assert kept
    assert count < PAGES // 100


def test_what_the_user_chose_stands() -> None:
    assert not faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0]

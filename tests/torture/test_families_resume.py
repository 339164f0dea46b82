"""Every family goes on after a kill to the bits it would have had: chains, carried states, second optimizers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import family_cases as cases

PROGRAM = Path(__file__).with_name("killed_families.py")
NEED_DATA = {"lenet5", "dcgan"}  # MNIST, from ../shared
LEFT_OUT = {"resnet", "torchvision"}  # CIFAR-10, for which there are no files; backpropagation as for cnn
NAMES = [name for name in cases.ALL if name not in LEFT_OUT]
LOTS = 4


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lot", range(LOTS))
def test_killed_and_resumed_gives_the_same_bits(
    lot: int, tmp_path: Path, family_files: dict[str, Path], shared_data_or_none: Path | None
) -> None:
    names = [name for name in NAMES if shared_data_or_none or name not in NEED_DATA][lot::LOTS]
    assert len(names) >= 6
    files = json.dumps({name: str(path) for name, path in family_files.items()})
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, str(shared_data_or_none), files, *names],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["name"] for row in found] == names
    for row in found:
        assert row["killed"], row
        assert row["found"] == 3, row
        assert row["digests"][0] == row["digests"][1], row

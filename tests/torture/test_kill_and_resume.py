"""SIGKILL at random instants, resume, and the same bits as a run that was never touched.

That the comparison would see a lost part of the state is shown in tests/test_run.py, where parts are lost on purpose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed.py")
KILLS = 10
RUNS = {
    "mlp-adam": ["model.hidden=[32]", "trainer.steps=900", "trainer.checkpoint_every=7", "trainer.evaluate_steps=30"],
    "cnn-everything": [
        "model=cnn", "model.channels=[4,8]", "model.hidden=[16]", "model.batch_norm=true", "model.dropout=0.2",
        "optimizer=momentum", "schedule=one_cycle", "trainer.ema=0.9",
        "trainer.accumulate=2", "trainer.clip_norm=1",
        "trainer.steps=300", "trainer.checkpoint_every=5", "trainer.evaluate_steps=30",
    ],
}  # fmt: skip


def killed(root: Path, seed: int, kills: int, overrides: list[str]) -> dict[str, object]:
    """What ``killed.py`` prints."""
    command = [sys.executable, str(PROGRAM), str(root), str(seed), str(kills), *overrides, "tracking=minimal"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", RUNS)
def test_ten_kills_and_resumes_end_in_the_same_bits(name: str, tmp_path: Path) -> None:
    found = killed(tmp_path, seed=1, kills=KILLS, overrides=RUNS[name])
    whole, resumed = found["hashes"]  # type: ignore[misc]
    assert whole == resumed
    assert found["status"] == "done"
    assert found["same_history"], "each row once, in order"
    assert found["same_metrics"]
    assert int(str(found["landed"])) >= 3, "kills that land after the end test nothing"
    assert len(found["resumed_at"]) >= 3, "resumes from step 0 alone would test little"  # type: ignore[arg-type]

"""A sweep whose trials do everything wrong and whose processes are killed at random: each trial ends once, as it must.

The seed of the random moments is printed when a test fails: DLRUN_SWEEP_SEED=N does the same again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("swept.py")
SEED = int(os.environ.get("DLRUN_SWEEP_SEED", "1"))
KILLS = 100 if os.environ.get("DLRUN_TORTURE") == "long" else 20
RETRIES = 3  # as in swept.py
SERVER_KILLED = "the process that it was forked from was killed"
# How a trial with a fault must end: status, exit code, a part of the sentence.
ENDS = {
    "raise": ("failed", 1, "ValueError: a planted mistake"),
    "exit": ("failed", 1, "SystemExit: 3"),
    "exit well": ("failed", 1, "SystemExit: 0"),
    "os exit": ("failed", 4, "exit code 4 without a word"),
    "segfault": ("failed", 139, "SIGSEGV"),
    "killed": ("failed", 137, "SIGKILL"),
    "hang": ("failed", 137, "no sign of life for 3 seconds"),
    "hang hard": ("failed", 137, "no sign of life for 3 seconds"),
    "diverge": ("diverged", 6, "train/loss became nan"),
    "none": ("done", 0, ""),
}


def swept(what: str, folder: Path, *words: str) -> dict[str, Any]:
    """What ``swept.py`` prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), what, str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fault_of(name: str) -> str:
    """As `swept.Faulty` spreads them."""
    number, seed = int(name[:4]), int(name[-1])
    faults = ["raise", "exit", "exit well", "os exit", "segfault", "killed", "hang", "hang hard", "diverge", "raise"]
    faults += ["os exit", "segfault", "killed", "exit", "diverge"]
    return faults[number] if seed == number % 2 else "none"


def is_right(name: str, status: str, code: int, error: str | None, kills: int) -> bool:
    """Whether a trial ended as its fault wants it, or, killed from outside too often, as one that was.

    The kill that was one too many may have been the trial's own or the fork server's: each has its sentence.
    """
    if kills > RETRIES:
        said = (error or "").removeprefix("its process was ended by ")
        return (status, code) == ENDS["killed"][:2] and said.startswith(("signal 9 (SIGKILL", SERVER_KILLED))
    wanted = ENDS[fault_of(name)]
    return (status, code) == wanted[:2] and wanted[2] in (error or "")


@pytest.mark.slow
def test_thirty_trials_with_every_fault_under_twenty_kills_end_once_each(tmp_path: Path) -> None:
    found = swept("faults", tmp_path, str(SEED), str(KILLS))
    print(f"DLRUN_SWEEP_SEED={SEED}", found)
    assert found["twice"] == [], "no trial that has ended is run again"
    assert len(found["trials"]) == 30
    wrong = {name: end for name, end in found["trials"].items() if not is_right(name, *end)}
    assert wrong == {}
    assert sum(end[0] == "done" for end in found["trials"].values()) >= 5
    assert found["orphans"] == 0, "nothing outlives its master"
    states = [worst(*(found["trials"][f"{number:04d}-seed{seed}"][0] for seed in (0, 1))) for number in range(15)]
    assert [state for state, _, _ in found["points"]] == states
    assert all(error for state, _, error in found["points"] if state != "done"), "each failure with its reason"
    assert sum(found["landed"].values()) == KILLS
    assert found["landed"]["master"] >= 3
    assert found["landed"]["trial"] >= 3


def worst(*states: str) -> str:
    """The state of a point by those of its trials."""
    return next(state for state in ("failed", "diverged", "done") if state in states)


@pytest.mark.slow
def test_the_check_sees_a_trial_that_is_run_twice(tmp_path: Path) -> None:
    (tmp_path / "sighted").mkdir()
    (tmp_path / "blind").mkdir()
    found = swept("twice", tmp_path / "sighted")
    assert found["twice"] == []
    assert found["begun"].count("0000-seed1") == 2, "the other trial went on"
    assert swept("twice", tmp_path / "blind", "blind")["twice"] == ["0000-seed0"], "a planted fault is found"


@pytest.mark.slow
def test_real_training_goes_on_where_the_master_was_killed(tmp_path: Path) -> None:
    found = swept("real", tmp_path)
    assert found["code"] == 0
    assert [record["status"] for record in found["records"]] == ["done"] * 3
    assert [record["attempts"] for record in found["records"]] == [2, 2, 1]
    assert found["resumed"] == ["running", "running"], "both kills landed in a training"
    for steps in found["steps"]:
        assert steps == sorted(steps)
        assert steps[-1] == 600

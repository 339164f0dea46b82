"""What Slurm knows of its jobs, asked of its own programs: ``squeue``, ``scontrol`` and ``scancel``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# States of a task that has ended; a task that is queued again leaves them.
OVER = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
}


def task_states(jobs: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """State and reason of each of these tasks that Slurm still knows, or None when Slurm does not answer."""
    arrays = sorted({job.split("_")[0] for job in jobs})
    answer = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}")
    if answer is None:
        return None
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") == 2]
    return {job.strip(): (state, reason) for job, state, reason in rows}


def still_there(file: Path) -> list[str]:
    """The tasks of an earlier master that have not ended, those of a Slurm that does not answer included."""
    try:
        jobs = [str(job) for job in json.loads(file.read_text())]
    except (OSError, ValueError):
        return []
    states = task_states(jobs)
    return jobs if states is None else [job for job in jobs if states.get(job, ("COMPLETED", ""))[0] not in OVER]


def own_task(environment: Mapping[str, str]) -> str:
    """The name of the task that this process runs in: ``ARRAY_TASK``, or the number of a job that is no array.

    In an array one task's own number is the array's too, and would mean all of them.
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"]


def still_wanted(task: str) -> bool:
    """Whether this task was not cancelled: one that was is COMPLETING by now, one that is preempted still runs."""
    return (ask("squeue", "--noheader", "--format=%T", f"--jobs={task}") or "").strip() == "RUNNING"


def ask(*command: str) -> str | None:
    """What one of Slurm's programs prints; empty where it does not know the job any more, None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" in done.stderr:
        return ""
    return done.stdout if done.returncode == 0 else None

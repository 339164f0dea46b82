"""Trials that do everything a trial can do, and the parties of a small sweep: for tests of processes and their loop.

A trial here trains nothing: it writes a checkpoint file at each step, as slowly as it is told, and its record at the
end. What it does from step 2 on is its fault, a word of ``FAULTS``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrun.errors import DivergedError
from dlrun.run import Outcome
from dlrun.session import recorded
from dlrun.sweeps.child import Link, guarded
from dlrun.sweeps.endings import held, wait_for
from dlrun.sweeps.jobs import Job
from dlrun.sweeps.nouns import TERMINAL, Point, Trial
from dlrun.tracking.durable import replace
from dlrun.tracking.run_directory import RunDirectory

LEDGER = "ledger.txt"
METRIC = "val/accuracy"


def _diverge() -> None:
    raise DivergedError("train/loss became nan at step 2; a smaller optimizer.lr usually helps")


def _raise() -> None:
    raise ValueError("a planted mistake")


def _hang() -> None:
    while True:
        time.sleep(60)


def _hang_hard() -> None:
    """In C, and no other thread of the process ever runs again."""
    ctypes.PyDLL(None).sleep(600)


def _leave_process() -> None:
    """As a loader's worker would be left."""
    print("left", subprocess.Popen(["sleep", "600"]).pid, flush=True)
    os._exit(0)


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "raise": _raise,
    "exit": lambda: sys.exit(3),
    "exit well": lambda: sys.exit(0),
    "os exit": lambda: os._exit(4),
    "segfault": lambda: print(ctypes.string_at(0)),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "warned": lambda: os._exit(128 + signal.SIGUSR1),  # as a run ends that SIGUSR1 has asked to
    "hang": _hang,
    "hang hard": _hang_hard,
    "diverge": _diverge,
    "leaves a process": _leave_process,
}


def trial(folder: Path, number: int = 0, seed: int = 0, **plan: Any) -> Trial:
    """A trial in the sweep ``folder``; ``plan`` is what it does.

    Its keys: fault, once (only in a process that begins at step 0), steps, pause (seconds a step) and value.
    """
    path = folder / f"{number:04d}-seed{seed}"
    return Trial(number, seed, path, json.dumps(plan), ("dlrun", "train"))


def work(job: Job, link: Link) -> None:
    """What the process of a job does; several trials go one after the other, as lanes do."""
    for lane, one in enumerate(job.trials):
        watched = bool(job.watched and job.watched[lane])
        link.ended(lane, guarded(lambda one=one, lane=lane, watched=watched: carry_out(one, link, lane, watched)))


def carry_out(one: Trial, link: Link, lane: int, watched: bool) -> Outcome:
    """The stand-in for ``train`` and ``resume``."""
    plan = {"fault": "none", "steps": 4, "pause": 0.0, "value": 0.5, "once": False} | json.loads(one.config)
    wait_for(one.folder)
    with held(one):
        pass  # made, with its configuration
    run = RunDirectory.open(one.folder)
    write_down(one, "again" if run.record()["status"] in TERMINAL else "begun")
    with recorded(run):
        run.lock()
        run.write_record(status="running", attempts=run.record().get("attempts", 0) + 1)
        saved = run.checkpoints / "step.txt"
        begun = int(saved.read_text()) if saved.exists() else 0
        for step in range(begun + 1, plan["steps"] + 1):
            replace(saved, [str(step).encode()])
            link.alive(lane, step, plan["steps"])
            if step >= 2 and (not plan["once"] or begun == 0):
                FAULTS[plan["fault"]]()
            time.sleep(plan["pause"])
            if link.evaluated(lane, step, plan["value"] * step, watched):
                return _close(one, run, "pruned", step, plan["value"] * step)
        return _close(one, run, "done", plan["steps"], plan["value"])


def _close(one: Trial, run: RunDirectory, status: str, step: int, value: float) -> Outcome:
    best = {"step": step, "metric": METRIC, "value": value}
    run.write_record(status=status, exit_code=0, steps=step, metrics={METRIC: value}, best=best)
    write_down(one, "ended")
    return Outcome(run.path, status, {METRIC: value}, 0)


def write_down(one: Trial, what: str) -> None:
    """One line of the sweep's ledger: what began and ended, in this order."""
    fd = os.open(one.folder.parent / LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what} {one.folder.name} {os.getpid()}\n".encode())
    os.close(fd)


def ledger(folder: Path) -> list[tuple[str, str, int]]:
    """What happened: begun, again (what had a terminal record) or ended, the trial's folder and the process."""
    path = folder / LEDGER
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(what, name, int(process)) for what, name, process in lines]


def run_twice(folder: Path) -> list[str]:
    """The trials that began again after they had ended; none may."""
    over: set[str] = set()
    found = []
    for what, name, _ in ledger(folder):
        if what == "again" or (what == "begun" and name in over):
            found.append(name)
        if what == "ended":
            over.add(name)
    return found


def record(one: Trial) -> dict[str, Any]:
    """The run's record."""
    return RunDirectory.open(one.folder).record()


@dataclass(frozen=True)
class Handed:
    """A point that was handed out."""

    number: int
    point: Point


@dataclass
class MemoryStudy:
    """A study without a memory beyond the process: numbers in order, and what it was told.

    ``worse`` are the points that its pruner ends at their second value.
    """

    count: int
    worse: set[int] = field(default_factory=set)
    told: dict[int, tuple[str, float | None, dict[str, Any]]] = field(default_factory=dict)
    values: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    beats: list[list[int]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    reclaimed: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = list(range(self.count))

    def ask(self) -> Handed | None:
        return Handed(self.waiting.pop(0), Point({}, ())) if self.waiting else None

    def report_all(self, reports: Mapping[int, tuple[int, float]]) -> set[int]:
        for number, report in reports.items():
            self.values.setdefault(number, []).append(report)
        return {number for number in reports if number in self.worse and len(self.values[number]) > 1}

    def finish(self, number: int, state: str, value: float | None, **attributes: Any) -> bool:
        assert number not in self.told, "a point is finished once"
        self.told[number] = (state, value, attributes)
        return True

    def beat(self, numbers: Sequence[int]) -> None:
        self.beats.append(list(numbers))

    def reclaim(self, grace: float | None) -> list[int]:
        self.reclaimed.append(grace)
        return []


@dataclass
class Plans:
    """A planner: ``plans`` has what each point does, ``reused`` the finished runs by folder name."""

    folder: Path
    plans: Sequence[dict[str, Any]]
    ahead: int = 1
    parted: list[str] = field(default_factory=list)
    reused: dict[str, Path] = field(default_factory=dict)

    def trial(self, claimed: Handed, seed: int) -> Trial:
        return trial(self.folder, claimed.number, seed, **self.plans[claimed.number])

    def pack(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        return trials[: self.ahead]

    def apart(self, trials: Sequence[Trial], reason: str) -> None:
        self.parted.append(reason)

    def reuse(self, one: Trial) -> Path | None:
        return self.reused.get(one.folder.name)

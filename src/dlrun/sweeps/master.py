"""Carrying a sweep out: in this process, as one worker of several, or by watching workers elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from dlrun.sweeps.launchers import Launcher, Workers, make_launcher
from dlrun.sweeps.nouns import PointResult, Settings, SweepResult, TrialResult
from dlrun.sweeps.parties import Change, Halt
from dlrun.sweeps.pool import Pool, accelerators
from dlrun.sweeps.supervisor import Supervisor
from dlrun.sweeps.sweep import Sweep, finished, sum_up
from dlrun.training.signals import StopFlag, watch_signals

GRACE = 60.0  # seconds without a sign of life after which the points of a worker elsewhere are handed out again
LOOK = 1.0  # seconds between two looks at the study while others work


class Screen(Protocol):
    """What a person sees of a sweep; ``dlrun.cli.sweep_screen`` has those that draw."""

    def begin(self, result: SweepResult, path: Path) -> None:
        """Its size and folder."""
        ...

    def note(self, text: str) -> None:
        """One sentence of information."""
        ...

    def warn(self, text: str) -> None:
        """One sentence about something that may be wrong."""
        ...

    def update(self, result: SweepResult, running: Mapping[tuple[int, int], str]) -> None:
        """How it stands."""
        ...

    def ended(self, point: PointResult, trial: TrialResult) -> None:
        """One trial has ended."""
        ...


def elsewhere(settings: Settings) -> bool:
    """Whether processes of their own work on the study, perhaps on other machines."""
    return settings.launcher in ("slurm", "ray") or settings.storage is not None


def launcher_of(settings: Settings) -> Launcher:
    """Who starts the workers; raises ConfigError for a wrong key, a missing program or cluster."""
    if settings.launcher in ("slurm", "ray", "local"):
        return make_launcher(settings.launcher, settings.options)
    return make_launcher("local", {})


def carry_out(sweep: Sweep, root: Path, screen: Screen) -> tuple[SweepResult, int]:
    """Work until every point has ended; what came of it, and 0 or the number of the signal that asked to end.

    The caller holds the sweep's lock.
    """
    sweep.directory.write_status("running")
    watcher = _Watcher(sweep, screen)
    screen.begin(watcher.result, sweep.directory.path)
    if elsewhere(sweep.settings):
        signal = _watch(sweep, watcher)
    else:
        signal = _work(sweep, root, watcher, sweep.settings.workers, None).signal
    watcher.look({}, final=True)
    sum_up(sweep, watcher.result, signal)
    return watcher.result, signal


def work(sweep: Sweep, root: Path, grace: float = GRACE) -> int:
    """One worker of several: it works with one slot until nothing is left; 0, or the number of the signal."""
    while True:
        halt = _work(sweep, root, None, 1, grace)
        if halt.signal or not any(point.state == "running" for point in sweep.search.points()):
            return halt.signal
        time.sleep(LOOK)  # the points of a worker that dies now are handed out again


def _work(sweep: Sweep, root: Path, watcher: _Watcher | None, slots: int, grace: float | None) -> Halt:
    settings = sweep.settings
    # A worker's launcher says how many threads it has; the cores that the machine shows may be another's.
    threads = int(os.environ.get("OMP_NUM_THREADS") or 0) if watcher is None else 0
    pool = Pool(slots, threads=threads or None, devices=accelerators(), hang=settings.hang, timeout=settings.timeout)
    study = _Asked(sweep)
    supervisor = Supervisor(study, sweep.planner(root), pool, sweep.rules(grace))
    if watcher is not None:
        supervisor.on_change = lambda changes: watcher.heard(changes, supervisor.running)
    return supervisor.run()


class _Asked:
    """The study as a supervisor knows it: one that can make points by itself."""

    def __init__(self, sweep: Sweep) -> None:
        self.search = sweep.search
        self.make = lambda choose: sweep.composer.point(sweep.space, choose)
        self.report, self.finish, self.reclaim = self.search.report, self.search.finish, self.search.reclaim

    def beat(self, numbers: Iterable[int]) -> None:
        """Say that this process still works on these points."""
        self.search.beat(numbers)

    def ask(self) -> Any:
        """The next point, claimed."""
        return self.search.ask(self.make)


class _Watcher:
    """Keeps the screen up to date."""

    def __init__(self, sweep: Sweep, screen: Screen) -> None:
        self.sweep, self.screen = sweep, screen
        self.started = time.monotonic() - float(sweep.directory.status().get("seconds") or 0.0)
        self.result = sweep.result()
        self._looked = 0.0

    def look(self, running: Mapping[tuple[int, int], str], final: bool = False) -> None:
        """Read how it stands and show it."""
        self.result = self.sweep.result(time.monotonic() - self.started, self.result, final)
        self._looked = time.monotonic()
        self.screen.update(self.result, running)

    def heard(self, changes: Sequence[Change], running: Mapping[tuple[int, int], str]) -> None:
        """Show what is new."""
        if changes or time.monotonic() - self._looked > LOOK:
            self.look(running)
        points = {point.number: point for point in self.result.points}
        for change in changes:
            if change.kind in ("ended", "reused") and change.seed is not None:
                point = points[change.number]
                trial = next(trial for trial in point.trials if trial.seed == change.seed)
                if change.kind == "reused" and change.ending is not None:  # the study hears of it with the whole point
                    trial = replace(trial, status=change.ending.status, value=change.ending.value, reused=True)
                self.screen.ended(point, trial)
            elif change.kind in ("again", "postponed", "warning", "apart"):
                where = f"point {change.number}" + ("" if change.seed is None else f" seed {change.seed}")
                self.screen.warn(f"{where}: {change.text}")


def _watch(sweep: Sweep, watcher: _Watcher) -> int:
    """Start workers, show what they do, hand out again what dead ones had; the number of a signal, or 0."""
    settings, search = sweep.settings, sweep.search
    with watch_signals() as stop:
        search.reclaim(GRACE)
        workers = launcher_of(settings).start(sweep.directory.path, settings.workers)
        watcher.screen.note(f"{settings.workers} workers by launcher={settings.launcher}")
        if settings.storage is None:
            watcher.screen.note(
                "the study is an SQLite file in the sweep's folder: over a network file system give a "
                "database instead, sweep.storage=postgresql+psycopg://user@host/name"
            )
        told: set[str] = set()
        seen = {key for key, trial in _ended(watcher.result).items() if trial}
        while not stop and not finished(watcher.result):
            search.reclaim(GRACE)
            watcher.look(_running(watcher.result))
            for (number, seed), (point, trial) in _ended(watcher.result).items():
                if (number, seed) not in seen:
                    seen.add((number, seed))
                    watcher.screen.ended(point, trial)
            for problem in workers.problems():
                if problem not in told:
                    told.add(problem)
                    watcher.screen.warn(problem)
            if workers.alive() == 0 and not finished(sweep.result()):
                watcher.screen.warn(
                    f"no worker is left and points are waiting; go on with: dlrun sweep --resume {sweep.directory.name}"
                )
                return 0
            _pause(LOOK, stop)
        if stop and workers.keep:
            watcher.screen.note("the workers go on (launcher.keep=true); this command only stops watching")
        elif stop:
            workers.cancel()
            if not _wait(workers):
                watcher.screen.warn("some workers are still ending; wait for them before the sweep goes on")
        return stop.number


def _ended(result: SweepResult) -> dict[tuple[int, int], tuple[PointResult, TrialResult]]:
    found = {}
    for point in result.points:
        for trial in point.trials:
            if trial.status not in ("waiting", "running"):
                found[point.number, trial.seed] = point, trial
    return found


def _running(result: SweepResult) -> dict[tuple[int, int], str]:
    return {
        (point.number, trial.seed): "" for point in result.points for trial in point.trials if trial.status == "running"
    }


def _pause(seconds: float, stop: StopFlag) -> None:
    until = time.monotonic() + seconds
    while not stop and time.monotonic() < until:
        time.sleep(0.05)


def _wait(workers: Workers, patience: float = 60.0) -> bool:
    """Let workers save what they have; whether all have ended. Those of a queue elsewhere may not tell."""
    until = time.monotonic() + patience
    while workers.alive() and time.monotonic() < until:
        time.sleep(0.1)
    return not workers.alive()

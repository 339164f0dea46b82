"""Carrying a sweep out: in this process, as one worker of several, or by watching workers elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from dlrun.errors import StorageError
from dlrun.sweeps.launchers import Launcher, Workers, make_launcher, worker_command
from dlrun.sweeps.nouns import PointResult, Settings, SweepResult, TrialResult
from dlrun.sweeps.parties import Change, Halt, Planner
from dlrun.sweeps.patience import Heart, patiently
from dlrun.sweeps.pool import Pool, accelerators
from dlrun.sweeps.results import trial_result
from dlrun.sweeps.supervisor import Supervisor
from dlrun.sweeps.sweep import Sweep, finished, sum_up, trust_words
from dlrun.training.signals import StopFlag, watch_signals

GRACE = 60.0  # seconds without a sign of life after which the points of a worker elsewhere are handed out again
LOOK = 1.0  # seconds between two looks at the study
AWAY = 60.0  # seconds that its database may be away while workers elsewhere go on


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


def launcher_of(settings: Settings, trusted: Sequence[str]) -> Launcher:
    """Who starts the workers; raises ConfigError for a wrong key, a missing program or cluster."""
    known = settings.launcher in ("slurm", "ray", "local")
    name, options = (settings.launcher, settings.options) if known else ("local", {})
    return make_launcher(name, options, lambda folder: [*worker_command(folder), *trust_words(trusted)])


def carry_out(sweep: Sweep, screen: Screen) -> tuple[SweepResult, int]:
    """Work until every point has ended; what came of it, and 0 or the number of the signal that asked to end.

    The caller holds the sweep's lock.
    """
    sweep.directory.write_status("running")
    watcher = _Watcher(sweep, screen)
    screen.begin(watcher.result, sweep.directory.path)
    if elsewhere(sweep.settings):
        signal = _watch(sweep, watcher)
    else:
        signal = _work(sweep, sweep.planner(), watcher, sweep.settings.workers, None).signal
    watcher.look({}, final=True)
    sum_up(sweep, watcher.result, signal)
    return watcher.result, signal


def work(sweep: Sweep, grace: float = GRACE) -> int:
    """One worker of several: it works with one slot until nothing is left; 0, or the number of the signal."""
    planner = sweep.planner()  # once: it reads the record of every run
    while True:
        halt = _work(sweep, planner, None, 1, grace)
        if halt.signal or not any(point.state == "running" for point in patiently(sweep.search.points)):
            return halt.signal
        time.sleep(LOOK)  # the points of a worker that dies now are handed out again


def _work(sweep: Sweep, planner: Planner, watcher: _Watcher | None, slots: int, grace: float | None) -> Halt:
    settings = sweep.settings
    # A worker's launcher says how many threads it has; the cores that the machine shows may be another's.
    threads = int(os.environ.get("OMP_NUM_THREADS") or 0) if watcher is None else 0
    pool = Pool(slots, threads=threads or None, devices=accelerators(), hang=settings.hang, timeout=settings.timeout)
    with _beating(sweep, grace) as heart:
        supervisor = Supervisor(_Asked(sweep, heart), planner, pool, sweep.rules(grace))
        if watcher is not None:
            supervisor.on_change = lambda changes: watcher.heard(changes, supervisor.running)
        return supervisor.run()


@contextmanager
def _beating(sweep: Sweep, grace: float | None) -> Iterator[Heart | None]:
    """A heart for the points of this process, where others would free them without a beat."""
    if grace is None:
        yield None
        return
    with Heart(sweep.another_search, grace / 4) as heart:
        yield heart


class _Asked:
    """The study as a supervisor knows it: one that can make points by itself."""

    def __init__(self, sweep: Sweep, heart: Heart | None) -> None:
        self.search, self.heart = sweep.search, heart
        self.make = lambda choose: sweep.composer.point(sweep.space, choose)
        self.report_all, self.finish, self.reclaim = sweep.search.report_all, sweep.search.finish, sweep.search.reclaim

    def beat(self, numbers: Iterable[int]) -> None:
        """Say that this process still works on these points, and no others."""
        numbers = frozenset(numbers)
        if self.heart is not None:
            self.heart.numbers = numbers
        self.search.beat(numbers)

    def ask(self) -> Any:
        """The next point, claimed."""
        claimed = self.search.ask(self.make)
        if claimed is not None and self.heart is not None:
            self.heart.numbers |= {claimed.number}
        return claimed


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
        """Show what is new; the study is looked at once a second, or for a point that it has only just proposed."""
        ended = [change for change in changes if change.kind in ("ended", "reused")]
        points = {point.number: point for point in self.result.points}
        if time.monotonic() - self._looked > LOOK or any(change.number not in points for change in ended):
            with suppress(StorageError):  # shown a second later, or the supervisor tells of it
                self.look(running)
            self._looked = time.monotonic()
            points = {point.number: point for point in self.result.points}
        for change in changes:
            if change.kind in ("ended", "reused") and change.number in points:
                self.screen.ended(points[change.number], self._trial(change))
            elif change.kind in ("again", "postponed", "warning", "apart"):
                self.screen.warn(f"{_where(change)}{change.text}")

    def _trial(self, change: Change) -> TrialResult:
        """The trial that has ended, from its own record and, where there is none, from what was heard of it."""
        assert change.ending is not None, "it has ended"
        assert change.seed is not None
        assert change.number is not None
        reused = change.kind == "reused"
        folder = Path(change.text) if reused else self.sweep.directory.trial(change.number, change.seed)
        ending, found = change.ending, trial_result(folder, change.seed, self.result.metric)
        if found.status != ending.status:
            found = TrialResult(change.seed, ending.status, folder, ending.value, error=ending.error)
        return replace(found, reused=reused)


def _where(change: Change) -> str:
    point = "" if change.number is None else f"point {change.number}"
    return " ".join(filter(None, [point, "" if change.seed is None else f"seed {change.seed}"])) + (point and ": ")


def _watch(sweep: Sweep, watcher: _Watcher) -> int:
    """Start workers, show what they do, hand out again what dead ones had; the number of a signal, or 0."""
    settings, search = sweep.settings, sweep.search
    with watch_signals() as stop:
        search.reclaim(GRACE)
        workers = launcher_of(settings, sweep.trusted).start(sweep.directory.path, settings.workers)
        watcher.screen.note(f"{settings.workers} workers by launcher={settings.launcher}")
        if settings.storage is None:
            watcher.screen.note(
                "the study is an SQLite file in the sweep's folder: over a network file system give a "
                "database instead, sweep.storage=postgresql+psycopg://user@host/name"
            )
        told: set[str] = set()
        seen = {key for key, trial in _ended(watcher.result).items() if trial}
        while not stop and not finished(watcher.result):
            patiently(lambda: search.reclaim(GRACE), AWAY)
            patiently(lambda: watcher.look(_running(watcher.result)), AWAY)
            for (number, seed), (point, trial) in _ended(watcher.result).items():
                if (number, seed) not in seen:
                    seen.add((number, seed))
                    watcher.screen.ended(point, trial)
            for problem in workers.problems():
                if problem not in told:
                    told.add(problem)
                    watcher.screen.warn(problem)
            if workers.alive() == 0 and not finished(patiently(sweep.result, AWAY)):
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

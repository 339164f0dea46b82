"""The loop over a sweep: hand out points, keep every slot busy, hear how trials end, tell the study.

One thread, one loop. It knows neither Optuna nor Hydra: a `Study` hands out points, a `Planner` makes trials of them,
and a `Pool` runs these in processes. What ended is read from the runs' own records, so that a sweep whose master was
killed goes on as if nothing had happened: a trial with a terminal record is never run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from dlrun.errors import DataError, DlrunError, LockedError, StorageError
from dlrun.sweeps.endings import count_kill, ending_of, has_checkpoint, settle
from dlrun.sweeps.jobs import Alive, Apart, Ended, Evaluated, Event, Gone, Job, waiting_of
from dlrun.sweeps.nouns import FAILED, Ending, Trial
from dlrun.sweeps.open_point import OpenPoint
from dlrun.sweeps.parties import Change, Halt, Planner, Study
from dlrun.sweeps.patience import patiently
from dlrun.sweeps.pool import Pool
from dlrun.sweeps.rules import Rules
from dlrun.sweeps.waiting import Waiting
from dlrun.tracking.folders import has_record
from dlrun.training.signals import StopFlag, watch_signals

TICK = 0.25  # seconds that the loop waits for events: the table's clock goes on, and a signal is seen
SAVING = 60.0  # seconds that trials have to save what they have, when the sweep itself cannot go on


class Supervisor:
    """Carries a sweep out.

    Args:
        study: hands out the points.
        planner: makes trials of them.
        pool: runs the trials; it is closed at the end.
        rules: see `Rules`.
        on_change: called at every turn of the loop with what is new, often nothing; ``running`` has what runs now.
    """

    def __init__(
        self,
        study: Study,
        planner: Planner,
        pool: Pool,
        rules: Rules,
        on_change: Callable[[Sequence[Change]], None] = lambda changes: None,
    ) -> None:
        self.study, self.planner, self.pool, self.rules, self.on_change = study, planner, pool, rules, on_change
        self.running: dict[tuple[int, int], str] = {}
        self._points: dict[int, OpenPoint] = {}
        self._waiting = Waiting(planner)
        self._jobs: dict[Path, Job] = {}  # the job of each trial that has not said how it ended
        self._postponed: list[int] = []
        self._changes: list[Change] = []
        self._exhausted = False
        self._beaten = 0.0
        self._away = False  # whether the study did not take the last signs of life
        self._interrupted = False
        self._stop = StopFlag()

    def run(self) -> Halt:
        """Work until nothing is left or a signal asks to end; then every trial that runs is saved and can go on.

        Raises:
            DlrunError: the study stays away, or no process can be started; what ran is saved then, too.
        """
        with watch_signals() as self._stop:
            try:
                self.study.reclaim(self.rules.grace)
                while True:
                    if self._stop:
                        self._interrupt()
                    moved = not self._stop and self._advance()
                    if not moved and not self.pool.jobs:
                        return Halt(self._stop.number, tuple(self._postponed))
                    events = self.pool.events(0 if moved else TICK)
                    self._answer(waiting_of(events))
                    for event in events:
                        self._handle(event)
                    self._beat()
                    self._tell()
            except DlrunError:
                self._save()
                raise
            finally:
                self.pool.close()
                self._tell()

    def _interrupt(self) -> None:
        """Ask every trial to save and end; once, since a second time would end it at once."""
        if not self._interrupted:
            self._interrupted = True
            self.pool.interrupt()

    def _save(self) -> None:
        """Let every trial save what it has; how it stands is in its record, for the one who goes on with the sweep."""
        self._interrupt()
        until = time.monotonic() + SAVING
        while self.pool.jobs and time.monotonic() < until:
            self._reply(waiting_of(self.pool.events(TICK)), ())

    def _tell(self) -> None:
        changes, self._changes = self._changes, []
        self.on_change(changes)

    def _advance(self) -> bool:
        """One step towards a busy pool: claim a point, or start a job; False when there is none to take."""
        if not self.pool.free:
            return False
        if len(self._waiting) < self.planner.ahead and not self._exhausted:
            claimed = patiently(self.study.ask)
            self._exhausted = claimed is None
            if claimed is not None:
                point = self._points[claimed.number] = OpenPoint(claimed, list(self.rules.seeds))
                self._proceed(point)
            return True
        if self._waiting:
            self._start()
            return True
        return False

    def _proceed(self, point: OpenPoint) -> None:
        """Queue the seeds of a point that may run now; once all have ended, tell the study."""
        while point.next_may_run(self.rules.pruning):
            self._prepare(point, point.owed.pop(0))
        if point.begun:
            return
        number, ending = point.claimed.number, point.ending(self.rules.metric)
        more: dict[str, Any] = {"error": ending.error, "reused": point.reused}
        more = {key: what for key, what in more.items() if what}
        patiently(lambda: self.study.finish(number, ending.status, ending.value, **more))
        del self._points[number]
        self._changes.append(Change("point", number, ending=ending))

    def _prepare(self, point: OpenPoint, seed: int) -> None:
        """Queue a trial, unless it has ended before or an equal run has."""
        number = point.claimed.number
        try:
            trial = self.planner.trial(point.claimed, seed)
        except DlrunError as error:
            ending = Ending(FAILED, error=str(error), exit_code=error.exit_code)
            point.endings[seed] = ending
            self._changes.append(Change("ended", number, seed, ending=ending))
            return
        self._postponed = [other for other in self._postponed if other != number]  # it is this one's again
        known, begun = ending_of(trial.folder, self.rules.metric), has_record(trial.folder)
        if known is not None:
            point.endings[seed] = known
            self._changes.append(Change("ended", number, seed, ending=known))
        elif not begun and (equal := self._equal(trial)) is not None:
            point.endings[seed] = ending_of(equal, self.rules.metric) or Ending(FAILED, error=f"{equal} is not done")
            point.reused[str(seed)] = str(equal)
            self._changes.append(Change("reused", number, seed, str(equal), point.endings[seed]))
        else:
            point.begun.add(seed)
            if begun:
                self._waiting.part([trial])
            self._waiting.add(trial)

    def _equal(self, trial: Trial) -> Path | None:
        try:
            return self.planner.reuse(trial)
        except DlrunError:  # what is wrong with it is told, and written down, when it is run
            return None

    def _start(self) -> None:
        """Start the trial that has waited longest, with those that can train in one pack with it."""
        trials, rules = self._waiting.take(), self.rules
        watched = tuple(rules.pruning and trial.seed == rules.seeds[0] for trial in trials)
        job = Job(trials, rules.work, watched, rules.metric, rules.trusted)
        self.pool.start(job)
        others = f"in a pack of {len(trials)}" if len(trials) > 1 else ""
        for trial in trials:
            self._jobs[trial.folder] = job
            self.running[trial.number, trial.seed] = "starting"
            self._changes.append(Change("started", trial.number, trial.seed, others))

    def _answer(self, asked: Sequence[Evaluated]) -> None:
        """Tell the study all values of a turn in one go, and each trial whether it goes on."""
        reports = {event.trial.number: (event.step, event.value) for event in asked}
        stops: set[int] = set()
        try:
            stops = patiently(lambda: self.study.report_all(reports)) if reports else stops
        finally:  # without an answer a trial could not even save
            self._reply(asked, stops)

    def _reply(self, asked: Sequence[Evaluated], stops: Container[int]) -> None:
        for event in asked:
            if event.job in self.pool.jobs:  # else its process died while it waited
                self.pool.answer(event.job, event.trial.number in stops)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Gone):
            self._gone(event)
        elif isinstance(event, Apart):
            self._part(event)
        elif isinstance(event, Ended):
            self._end(event.trial, event.ending)
        elif isinstance(event, Alive):
            of = f"/{event.total:,}" if event.total else ""
            self.running[event.trial.number, event.trial.seed] = f"step {event.step:,}{of}"
        else:
            self.running[event.trial.number, event.trial.seed] = f"step {event.step:,}, {event.value:.6g}"

    def _part(self, event: Apart) -> None:
        """A pack was none: its trials are to run each for itself, and the planner shall know."""
        self.planner.apart(event.job.trials, event.reason)
        self._waiting.part(event.job.trials)
        self._changes.append(Change("apart", event.job.trials[0].number, text=event.reason))

    def _gone(self, event: Gone) -> None:
        """The end of a process: what its trials did not say themselves is decided here."""
        for trial in reversed(event.job.trials):  # each to the front of the queue
            if self._jobs.get(trial.folder) is not event.job:  # how it ended is known
                continue
            self.running.pop((trial.number, trial.seed), None)
            if ending_of(trial.folder, self.rules.metric) is not None:  # its last word was written, not sent
                self._end(trial, Ending(FAILED, error=event.reason, exit_code=event.exit_code))
            elif self._stop:
                continue  # saved, and to go on when the sweep is resumed
            elif len(event.job.trials) > 1:
                self._again_alone(trial, event.reason)
            elif not event.outside or not self._may_retry(trial, event.reason):
                self._end(trial, Ending(FAILED, error=event.reason, exit_code=event.exit_code))

    def _may_retry(self, trial: Trial, reason: str) -> bool:
        try:
            kills = count_kill(trial)
        except LockedError as error:
            self._postpone(trial, str(error))
            return True
        except DlrunError:  # a full disk: the attempt cannot be counted, so there is none
            return False
        if kills <= self.rules.retries:
            self._again(trial, f"{reason}; it goes on from its checkpoint")
        return kills <= self.rules.retries

    def _again(self, trial: Trial, why: str) -> None:
        self._waiting.part([trial])
        self._waiting.add_first(trial)
        self._changes.append(Change("again", trial.number, trial.seed, why))

    def _again_alone(self, trial: Trial, reason: str) -> None:
        if self._waiting.is_alone(trial):  # they were told to part
            self._waiting.add_first(trial)
        else:
            self._again(trial, f"its pack broke ({reason}): it is run alone")

    def _end(self, trial: Trial, ending: Ending) -> None:
        """A trial is over: its record says so, or is made to."""
        metric = self.rules.metric
        known = ending_of(trial.folder, metric)
        if known is None:
            mendable = ending.exit_code in (DataError.exit_code, StorageError.exit_code) and has_checkpoint(trial)
            if mendable or ending.exit_code == LockedError.exit_code:
                self._postpone(trial, ending.error)
                return
            try:
                settle(trial, ending)
                known = ending_of(trial.folder, metric)
            except LockedError as error:
                self._postpone(trial, str(error))
                return
            except DlrunError as error:  # the study keeps what the disk does not take
                self._changes.append(Change("warning", trial.number, trial.seed, str(error)))
        self._jobs.pop(trial.folder, None)
        self.running.pop((trial.number, trial.seed), None)
        point = self._points[trial.number]
        point.begun.discard(trial.seed)
        point.endings[trial.seed] = known or ending
        self._changes.append(Change("ended", trial.number, trial.seed, ending=known or ending))
        self._proceed(point)

    def _postpone(self, trial: Trial, why: str) -> None:
        """Leave a point as it is: another process works on a trial of it, and will say how it ends."""
        self._jobs.pop(trial.folder, None)
        self.running.pop((trial.number, trial.seed), None)
        self._waiting.drop(trial.number)
        if trial.number not in self._postponed:
            self._postponed.append(trial.number)
        self._changes.append(Change("postponed", trial.number, trial.seed, why))

    def _beat(self) -> None:
        """Tell the study which points live here, and free those of processes that are gone."""
        grace = self.rules.grace
        if grace is None or time.monotonic() < self._beaten:
            return
        try:
            self.study.beat([number for number in self._points if number not in self._postponed])
            self.study.reclaim(grace)
        except StorageError as error:
            if not self._away:
                self._changes.append(Change("warning", None, text=f"{error}; it is tried again"))
            self._away = True
            return  # the next turn tries again
        self._away, self._beaten = False, time.monotonic() + grace / 4
        self._exhausted = False  # another process may have freed points too

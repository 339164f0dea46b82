"""The study of one sweep: which points there are, who works on them, how they ended. Optuna does the searching.

A point is an Optuna trial, its number the trial's. All points of a sweep exist from the start: those of a grid with
their values, those of a sampler as empty, numbered slots, which the sampler fills when a worker claims one. So there
is never one more than was asked for, whatever the number of workers, and a point that was lost with its worker comes
back under its number with its values.

A point belongs to the process that claimed it: once it has been reclaimed and handed out again, what its former owner
says of it is ignored. Many processes may work on one study; in each, one thread.
"""

from __future__ import annotations

import functools
import math
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import optuna
from optuna.storages import RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from dlrun.errors import ConfigError, StorageError
from dlrun.sweeps import known, nouns, sampling, storage, tables
from dlrun.sweeps.known import Claimed, Known
from dlrun.sweeps.nouns import Axis, Point, Settings, Space
from dlrun.sweeps.tables import Change
from dlrun.sweeps.view import View

Make = Callable[[Callable[[Axis], str]], Point]
_Method = TypeVar("_Method", bound=Callable[..., Any])

_ME = f"{socket.gethostname()} {uuid.uuid4().hex}"
_TRIES = 8  # proposals that may repeat a point before one that was never tried is looked up


def _told(method: _Method) -> _Method:
    """Let a method raise StorageError with a sentence for whatever the database raises."""

    @functools.wraps(method)
    def wrapped(self: Search, /, *args: Any, **kwargs: Any) -> Any:
        with storage.told(self._url):
            return method(self, *args, **kwargs)

    return cast(_Method, wrapped)


class Search:
    """The study of one sweep; made by `create` or `open`. Every method raises StorageError when the database fails."""

    def __init__(self, database: RDBStorage, url: URL, name: str, settings: Settings, space: Space) -> None:
        self._database, self._url, self._name = database, url, name
        self._settings, self._space = settings, space
        self._cache = get_storage(database)
        self._study_id = database.get_study_id_from_name(name)
        self._direction = database.get_study_directions(self._study_id)[0]
        self._view = View(database, self._study_id)

    @classmethod
    def create(cls, url: str, name: str, settings: Settings, space: Space, higher_is_better: bool) -> Search:
        """Make the study ``name`` in the database at ``url``, or go on with the one there; before any worker starts.

        Makes the slots of a sampler's points: more of them when ``settings.points`` has grown since. Hyperband draws a
        point's bracket from the name and the number. Raises ConfigError for settings or a URL that cannot be used,
        StorageError for a database that cannot.
        """
        sampling.make_pruner(settings.pruner)
        slots = 0 if settings.sampler == "grid" else sampling.slots(settings, space)
        parsed = storage.parse_url(url)
        database = storage.connect(parsed, create=True)
        with storage.told(parsed):
            direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
            optuna.create_study(storage=database, study_name=name, direction=direction, load_if_exists=True)
            search = cls(database, parsed, name, settings, space)
            tables.add_trials(database, search._study_id, [({}, {})] * slots)
        return search

    @classmethod
    def open(cls, url: str, name: str, settings: Settings, space: Space) -> Search:
        """Join the study ``name``, which `create` has made; raises StorageError when it is not there."""
        parsed = storage.parse_url(url)
        database = storage.connect(parsed, create=False)
        with storage.told(parsed):
            try:
                return cls(database, parsed, name, settings, space)
            except KeyError as error:
                database.engine.dispose()
                raise StorageError(f"there is no study '{name}' in {storage.shown(parsed)}") from error

    def close(self) -> None:
        """Close the connections to the database; the study stays."""
        self._database.remove_session()
        self._database.engine.dispose()

    @_told
    def enqueue(self, points: Sequence[Point]) -> int:
        """Add the points of a grid that are not there yet, all or none; returns how many.

        ``points`` are all of them in the order of their numbers, so that a master that was killed may say it again.
        """
        kinds = {axis.key: sampling.distribution(axis) for axis in self._space.axes if axis.finite}
        choices = {axis.key: axis.values for axis in self._space.axes}
        rows = []
        for point in points:
            listed = {key: value for key, value in point.values.items() if value in choices.get(key, ())}
            rows.append(
                ({key: (value, kinds[key]) for key, value in listed.items()}, {known.POINT: known.as_json(point)})
            )
        return tables.add_trials(self._database, self._study_id, rows)

    @_told
    def ask(self, make: Make | None = None) -> Claimed | None:
        """Claim the next point: one that is waiting, else a new one of the sampler's; None when none is left.

        Points that others are running may come back, so None is not yet the end of the sweep. ``make`` builds a point
        from a function that chooses the value of an axis; a grid needs none. What ``make`` raises leaves the slot free.
        """
        with self._turn():
            # First those that have a point: the proposals after them shall know of it.
            while (
                found := tables.next_waiting(self._database, self._study_id, known.POINT, known.SURPLUS)
            ) is not None:
                trial = self._claim(found)
                try:
                    point = known.point_of(trial) or self._propose(trial, make)
                except BaseException:
                    self._change(found, Change(TrialState.WAITING))
                    raise
                if point is not None:
                    return Claimed(trial.number, point, trial.user_attrs[known.CLAIMS])
                empty = [t._trial_id for t in self._view.trials() if known.POINT not in t.user_attrs]
                surplus = Change(TrialState.WAITING, attributes={known.SURPLUS: True})
                tables.change_trials(self._database, dict.fromkeys(empty, surplus))
        return None

    @_told
    def report_all(self, reports: Mapping[int, tuple[int, float]]) -> set[int]:
        """Tell evaluations of points' first seeds, as (step, value) by number; returns the points that are to stop.

        The pruner sees evaluations counted 1, 2, 3, ..., not optimizer steps, which differ with the batch size. A step
        that was told before a resume is not told again, and a point that was to stop stays so. NaN is the worst. One
        reading and one transaction serve all. Where there is no pruner nothing is kept: the curve is in the run's
        history.
        """
        if self._settings.pruner == "none":
            return set()
        # A pruner need not see those that wait.
        trials = [trial for trial in self._view.trials() if trial.state != TrialState.WAITING]
        stops, changes = set(), {}
        snapshot = sampling.Snapshot(trials, self._direction)
        pruner = sampling.make_pruner(self._settings.pruner)
        for trial in trials:
            if trial.number not in reports or not _is_mine(trial):
                continue
            step, value = reports[trial.number]
            steps = trial.user_attrs.get(known.STEPS, [])
            if step not in steps:
                told = (len(steps) + 1, float(value))
                trial.intermediate_values[told[0]] = told[1]
                kept: dict[str, Any] = {known.STEPS: [*steps, step]}
                stop, notes = sampling.wants_to_stop(pruner, self._name, snapshot, trial)
                if stop:
                    kept[known.STOP] = trial.user_attrs[known.STOP] = True
                changes[trial._trial_id] = Change(report=told, attributes=kept, notes=notes)
            if known.STOP in trial.user_attrs:
                stops.add(trial.number)
        tables.change_trials(self._database, changes)
        return stops

    @_told
    def finish(self, number: int, state: str, value: float | None = None, error: str = "", **attributes: Any) -> bool:
        """Say how a point ended, exactly once: false, and nothing changes, when it has ended or another process has it.

        ``state`` is one of ``nouns.TERMINAL``. Done without a value is failed, since it cannot be ranked. A point that
        was never claimed may be finished too, as one that an earlier run has answered. ``attributes`` are kept as JSON.
        """
        if state == nouns.DONE and (value is None or math.isnan(value)):
            state, error = nouns.FAILED, error or "it ended without a value of the sweep's metric"
        with self._turn():
            trial = self._open(number)
            if trial is None:
                return False
            last = trial.intermediate_values.get(trial.last_step or 0)
            told = {nouns.DONE: [value], nouns.PRUNED: [value, last]}.get(state, [])
            kept = {known.STATE: state, known.ERROR: error, known.ATTRIBUTES: attributes}
            # One that diverged is NaN after its last good evaluation, so that none of them speaks for it.
            report = (len(trial.intermediate_values) + 1, math.nan) if state == nouns.DIVERGED else None
            final = next((v for v in told if v is not None and not math.isnan(v)), None)
            self._change(trial._trial_id, Change(known.STORED[state], final, report, kept))
        return True

    @_told
    def beat(self, numbers: Iterable[int]) -> list[int]:
        """Give a sign of life for points that this process has; returns those that are its own no longer."""
        numbers = list(numbers)
        alive = tables.beat(self._database, self._study_id, numbers, (known.OWNER, _me()))
        return [number for number in numbers if number not in alive]

    @_told
    def reclaim(self, grace: float | None) -> list[int]:
        """Let the points of dead workers wait again, with the values they have; returns their numbers.

        ``grace`` is in seconds: workers silent for longer are dead; None: no worker is alive, all points come back.
        Time is the database's own, in whole seconds.
        """
        with self._turn():
            running = {t._trial_id: t.number for t in self._in_state(TrialState.RUNNING)}
            if grace is not None:
                self._database.grace_period = max(1, math.ceil(grace))
                running = {i: running[i] for i in self._database._get_stale_trial_ids(self._study_id) if i in running}
            for trial_id in running:
                self._change(trial_id, Change(TrialState.WAITING))
        return sorted(running.values())

    @_told
    def points(self) -> list[Known]:
        """All points that have values, in the order of their numbers; the slots of a sampler's next ones are not."""
        return self._view.standing()[0]

    @_told
    def planned(self) -> int:
        """How many points the sweep has in all, those included that are still to be proposed."""
        return self._view.standing()[1]

    @_told
    def standing(self) -> tuple[list[Known], int]:
        """`points` and `planned` of one reading."""
        return self._view.standing()

    @_told
    def importances(self) -> dict[str, float]:
        """How much of the value's variance each axis explains; see `dlrun.sweeps.sampling.importances`."""
        return sampling.importances(self._in_state(TrialState.COMPLETE), self._settings.seed)

    def _turn(self) -> AbstractContextManager[None]:
        return storage.turn(self._database, self._url, self._study_id)

    def _change(self, trial_id: int, change: Change) -> None:
        tables.change_trials(self._database, {trial_id: change})

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return [trial for trial in self._view.trials() if trial.state == state]

    def _open(self, number: int) -> FrozenTrial | None:
        """The trial of a point that this process may finish: its own, or one that nobody has."""
        trial = self._cache.get_trial(self._cache.get_trial_id_from_study_id_trial_number(self._study_id, number))
        return trial if trial.state == TrialState.WAITING or _is_mine(trial) else None

    def _claim(self, trial_id: int) -> FrozenTrial:
        claims = int(self._database.get_trial(trial_id).user_attrs.get(known.CLAIMS, 0)) + 1
        kept = {known.CLAIMS: claims, known.OWNER: _me()}
        self._change(trial_id, Change(TrialState.RUNNING, attributes=kept))
        return self._database.get_trial(trial_id)

    def _propose(self, trial: FrozenTrial, make: Make | None) -> Point | None:
        """Fill a claimed slot with a point that was not proposed before; None when the space has no other."""
        if make is None:
            raise ConfigError(f"sweep={self._settings.sampler} proposes points, so it must be told how to make one")
        taken = {one.point.overrides for one in self._view.standing()[0]}
        names = [self._settings.sampler] * _TRIES + ["untried"] * self._space.finite
        for attempt, name in enumerate(names):
            seed = sampling.seed_of(self._settings.seed, trial.number, attempt)
            sampler = sampling.make_sampler(name, seed, self._space)
            pruner = optuna.pruners.NopPruner()
            study = optuna.load_study(study_name=self._name, storage=self._cache, sampler=sampler, pruner=pruner)
            draft = sampling.Draft(study, trial)
            point = make(draft.choose)
            # Where the points cannot be counted, repeating one is better than ending early.
            if point.overrides not in taken or (attempt == _TRIES - 1 and not self._space.finite):
                kept = {known.POINT: known.as_json(point)}
                self._change(trial._trial_id, Change(params=draft.params, attributes=kept))
                return point
        return None


def _me() -> str:
    return f"{_ME} {os.getpid()}"


def _is_mine(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and trial.user_attrs.get(known.OWNER) == _me()

"""Optuna's tables, read in single questions and written in whole steps.

Optuna writes each value, attribute and state in a transaction of its own, so that whoever is killed in between leaves
half, and each waits for the disk. Here all points of a sweep, and all that changes in one at a time, are one
transaction; the rows are those that Optuna would have written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

Params = Mapping[str, tuple[Any, BaseDistribution]]


def next_waiting(storage: RDBStorage, study_id: int, first: str, never: str) -> int | None:
    """Id of the waiting trial with the lowest number; those with a user attribute ``first`` before those without.

    Asked of the database, since Optuna reads a thousand waiting trials in 0.2 s. Trials with an attribute ``never`` are
    left out.
    """
    trial, note = models.TrialModel, models.TrialUserAttributeModel
    preferred, banned = (
        sqlalchemy.exists().where(note.trial_id == trial.trial_id, note.key == key) for key in (first, never)
    )
    waiting = sqlalchemy.select(trial.trial_id).where(
        trial.study_id == study_id, trial.state == TrialState.WAITING, ~banned
    )
    order = sqlalchemy.case((preferred, 0), else_=1)
    with storage.engine.connect() as connection:
        return connection.scalar(waiting.order_by(order, trial.number).limit(1))


def add_trials(storage: RDBStorage, study_id: int, rows: Sequence[tuple[Params, Mapping[str, Any]]]) -> int:
    """Write the waiting trials that a study lacks, in one transaction; returns how many there were to add.

    ``rows`` are all trials of the study, as parameters and user attributes, from number 0: those that are there
    already stay as they are.
    """
    with storage.scoped_session() as session, session.begin():
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        there = session.query(models.TrialModel).filter(models.TrialModel.study_id == study_id).count()
        for number, (params, attributes) in enumerate(rows[there:], start=there):
            trial: Any = models.TrialModel(study_id=study_id, number=number, state=TrialState.WAITING)
            session.add(trial)
            session.flush()  # ids in the order of the numbers: Optuna's caches count on it
            _write_params(session, trial.trial_id, params)
            for key, content in attributes.items():
                text = json.dumps(content)
                session.add(models.TrialUserAttributeModel(trial_id=trial.trial_id, key=key, value_json=text))
    return len(rows[there:])


class Mark(NamedTuple):
    """What tells whether a trial can have changed: outside of a run it changes only by being claimed, or by a note.

    Attributes:
        state: of the trial.
        claimed: when it was handed out last.
        noted: whether it has the user attribute that was asked for.
    """

    state: TrialState
    claimed: datetime | None
    noted: bool


def marks(storage: RDBStorage, study_id: int, key: str) -> dict[int, Mark]:
    """A mark for every trial of a study, by id in the order of the numbers; ``key`` is a user attribute."""
    trial, note = models.TrialModel, models.TrialUserAttributeModel
    claimed = trial.__table__.c.datetime_start  # the column itself: the model's attribute has had several names
    columns = (trial.trial_id, trial.state, claimed, note.key)
    noted = (note.trial_id == trial.trial_id) & (note.key == key)
    found = sqlalchemy.select(*columns).join(note, noted, isouter=True).where(trial.study_id == study_id)
    with storage.engine.connect() as connection:
        rows = connection.execute(found.order_by(trial.number)).all()
    return {row[0]: Mark(row[1], row[2], row[3] is not None) for row in rows}


@dataclass(frozen=True)
class Change:
    """What is to change in one unfinished trial.

    Attributes:
        state: the new one; a trial that begins to run has given a sign of life with it: one without would never be
            stale, whatever happened to its worker.
        value: of the point.
        report: an intermediate value, as (Optuna's step, value).
        attributes: user attributes.
        notes: Optuna's own attributes, as pruners make them.
        params: what was chosen, for a trial that has no parameters yet.
    """

    state: TrialState | None = None
    value: float | None = None
    report: tuple[int, float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    params: Params = field(default_factory=dict)


def change_trials(storage: RDBStorage, changes: Mapping[int, Change]) -> None:
    """Change trials, by id, in one transaction: whoever is killed in the middle has changed nothing."""
    user, system = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
    with storage.scoped_session() as session, session.begin():
        for i, change in sorted(changes.items()):  # in one order everywhere: no two can wait for each other
            trial: Any = models.TrialModel.find_or_raise_by_id(i, session, for_update=True)
            storage.check_trial_is_updatable(i, trial.state)
            for key, content in change.attributes.items():
                storage._set_trial_attr_without_commit(session, user, i, key, content)
            for key, content in change.notes.items():
                storage._set_trial_attr_without_commit(session, system, i, key, content)
            _write_params(session, i, change.params)
            if change.report is not None:
                storage._set_trial_intermediate_value_without_commit(session, i, *change.report)
            if change.value is not None:
                storage._set_trial_value_without_commit(session, trial, 0, change.value)
            if change.state is not None:
                _enter(session, trial, change.state)


def _enter(session: Any, trial: Any, state: TrialState) -> None:
    trial.state = state
    if state == TrialState.RUNNING:
        trial.datetime_start = datetime.now()
        signs = models.TrialHeartbeatModel.where_trial_id(trial.trial_id, session) or models.TrialHeartbeatModel()
        signs.trial_id, signs.heartbeat = trial.trial_id, sqlalchemy.func.current_timestamp()
        session.add(signs)
    elif state.is_finished():
        trial.datetime_complete = datetime.now()


def beat(storage: RDBStorage, study_id: int, numbers: Sequence[int], owner: tuple[str, str]) -> set[int]:
    """Give a sign of life for those of the running trials that have the user attribute ``owner``; returns which."""
    trial, note, table = models.TrialModel, models.TrialUserAttributeModel, models.TrialHeartbeatModel
    mine = (note.trial_id == trial.trial_id) & (note.key == owner[0]) & (note.value_json == json.dumps(owner[1]))
    wanted = (trial.study_id == study_id) & (trial.state == TrialState.RUNNING) & trial.number.in_(numbers)
    with storage.engine.begin() as connection:
        rows = connection.execute(sqlalchemy.select(trial.trial_id, trial.number).join(note, mine).where(wanted)).all()
        ids = [row.trial_id for row in rows]
        connection.execute(
            sqlalchemy.update(table)
            .where(table.trial_id.in_(ids))
            .values(heartbeat=sqlalchemy.func.current_timestamp())
        )
    return {row.number for row in rows}


def _write_params(session: Any, trial_id: int, params: Params) -> None:
    for name, (value, distribution) in params.items():
        number, text = distribution.to_internal_repr(value), distribution_to_json(distribution)
        row = models.TrialParamModel(trial_id=trial_id, param_name=name, param_value=number, distribution_json=text)
        session.add(row)

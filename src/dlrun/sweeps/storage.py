"""The database of a sweep's study: opened, locked, its errors told in a sentence. See tables.py for what is in it.

Optuna's own tables hold everything, so that every tool for an Optuna study reads a sweep. SQLite in the sweep's folder
is the default; any other database comes by URL. Three things are added to Optuna's storage:

1. SQLite commits are durable. Journal mode TRUNCATE with full synchronisation syncs the journal's end as well as the
   data, so a result that was told is there after a power cut. Not WAL: its shared memory does not reach a second host.
2. Claiming is one at a time over all workers (`turn`). Optuna takes a waiting trial by reading its state and then
   writing it, which on SQLite can give one trial to two processes; and proposals made one after the other see each
   other, so that no two are equal.
3. Passwords never reach a message.

The database is trusted as the sweep's code is: Optuna's CMA-ES keeps its state in it as a pickle.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy.engine import URL, make_url

from dlrun.errors import ConfigError, LockedError, StorageError
from dlrun.tracking import lock

BUSY = 60.0  # seconds to wait for another process's write before giving up
_POSTGRES = ("postgres", "postgresql")
_DAMAGED = ("not a database", "malformed", "file is encrypted")
_MISSING = ("no such table", 'relation "version_info" does not exist')


def parse_url(text: str) -> URL:
    """The URL of a database; a bare ``postgresql://`` means the driver psycopg. Raises ConfigError."""
    try:
        url = make_url(text)
    except sqlalchemy.exc.ArgumentError as error:
        raise ConfigError(
            "storage is not the URL of a database; write sqlite:///study.db or postgresql://USER@HOST/DATABASE"
        ) from error
    return url.set(drivername="postgresql+psycopg") if url.drivername in _POSTGRES else url


def shown(url: URL) -> str:
    """The URL as it may be printed."""
    return _file(url) or url.render_as_string(hide_password=True)


def connect(url: URL, create: bool) -> RDBStorage:
    """Open a database; ``create`` makes its tables, to be done once, before any worker starts.

    Raises ConfigError for a URL or a driver that cannot be used and StorageError for a database that does not answer,
    is damaged, belongs to another version of Optuna or, without ``create``, is not there.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = _file(url)
    if file and not create and not Path(file).is_file():
        raise StorageError(f"there is no study at {file}; the sweep was never begun, or its folder has been moved")
    with told(url):
        for attempt in range(5):
            try:
                return _open(url, create)
            except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
                # Another sweep makes the same tables at this moment: what it made is found on the next try.
                if not create or attempt == 4:
                    raise
                time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("unreachable")


def _open(url: URL, create: bool) -> RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if file := _file(url):
        options = {"creator": lambda: _open_sqlite(file)}
    elif url.get_backend_name() == "postgresql":
        # A worker whose host vanishes in the middle of a step must not keep the others waiting for hours.
        options["connect_args"] = {"connect_timeout": 20, "options": "-c idle_in_transaction_session_timeout=60000"}
    # Optuna fills in {SCHEMA_VERSION}: any other brace would be an error there.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        storage = RDBStorage(text, engine_kwargs=options, skip_table_creation=not create)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        driver = url.get_driver_name() if isinstance(error, ImportError) else url.drivername
        raise ConfigError(
            f"storage={shown(url)} needs the Python driver '{driver}', which is not installed; "
            "for PostgreSQL: pip install 'psycopg[binary]'"
        ) from error
    except RuntimeError as error:  # made by another version of Optuna
        raise StorageError(f"the study in {shown(url)} cannot be used: {_first_line(error)}") from error
    storage.heartbeat_interval = 1  # makes the storage answer which trials are stale; who beats, and when, is ours
    return storage


def _open_sqlite(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=BUSY, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=TRUNCATE")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _file(url: URL) -> str:
    """The path of a SQLite database; empty for any other."""
    on_disk = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:") and not url.query
    return str(url.database) if on_disk else ""


@contextmanager
def told(url: URL) -> Iterator[None]:
    """Turn what a database raises into a StorageError of one sentence, without the password."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, sqlite3.Error) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = _first_line(getattr(cause, "orig", None) or cause or error)
        if url.password:
            reason = reason.replace(str(url.password), "***")
        if any(word in reason for word in _MISSING):
            raise StorageError(f"there is no study in {shown(url)}; the sweep was never begun there") from error
        if any(word in reason for word in _DAMAGED):
            raise StorageError(
                f"the study {shown(url)} is damaged ({reason}); the runs beside it are whole: "
                "start the sweep again with the same words and what is done is used again"
            ) from error
        raise StorageError(f"the database {shown(url)} cannot be used: {reason}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def turn(storage: RDBStorage, url: URL, study_id: int) -> Iterator[None]:
    """Only one worker of a study is inside at a time; whatever kills it lets the next one in.

    A lock file beside a SQLite database; elsewhere the study's row, held by a transaction of its own.
    """
    if file := _file(url):
        path = Path(f"{file}.lock")
        _wait_for(path)
        try:
            yield
        finally:
            lock.release(path)
        return
    row = sqlalchemy.select(models.StudyModel.study_id).where(models.StudyModel.study_id == study_id)
    with storage.engine.begin() as connection:
        connection.execute(row.with_for_update(key_share=True))
        yield


def _wait_for(path: Path) -> None:
    until = time.monotonic() + BUSY
    while True:
        try:
            return lock.acquire(path)
        except LockedError as error:
            if time.monotonic() > until:
                raise StorageError(f"the lock {path} has not come free in {BUSY:.0f} s: {error}") from error
        time.sleep(random.uniform(0.002, 0.02))

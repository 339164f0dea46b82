"""How trials ended, on disk: a run's record is the truth about it, and every trial gets exactly one ending there.

A process that is killed can write nothing. Then the supervisor does it in its place, under the run's lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError, LockedError
from dlrun.sweeps.nouns import TERMINAL, Ending, Trial
from dlrun.sweeps.results import trial_result
from dlrun.tracking import lock
from dlrun.tracking.folders import has_record, now_text
from dlrun.tracking.provenance import redact
from dlrun.tracking.run_directory import RunDirectory

PATIENCE = 10.0  # seconds: a process that was just killed still holds its lock for a moment
_KILLS = "kills"  # key of the record: how often the run was killed from outside while its sweep lived


def ending_of(folder: Path, metric: str) -> Ending | None:
    """How the run in ``folder`` ended; None when it did not, or was only interrupted."""
    if not has_record(folder):
        return None
    record = _record(folder)
    if metric == "auto":
        metric = str((record.get("best") or {}).get("metric"))
    found = trial_result(folder, 0, metric)
    if found.status not in TERMINAL:
        return None
    code = record.get("exit_code")
    return Ending(found.status, found.value, found.error, code if isinstance(code, int) else 0)


def settle(trial: Trial, ending: Ending) -> None:
    """Write how a trial ended into its run's record, which is made where there is none; a terminal one stays.

    Raises:
        LockedError: another process works on the run.
        StorageError: the disk refuses.
    """
    with held(trial) as run:
        record = run.record()
        if record.get("status") not in TERMINAL:
            said = {"error": ending.error} if ending.error else {}
            run.write_record(status=ending.status, exit_code=ending.exit_code, finished=now_text(), **said)


def count_kill(trial: Trial) -> int:
    """Note in the run's record that it was killed from outside once more, and say how often that makes.

    Raises:
        LockedError: another process works on the run.
        StorageError: the disk refuses.
    """
    with held(trial) as run:
        kills = run.record().get(_KILLS)
        count = kills + 1 if isinstance(kills, int) else 1
        run.write_record(**{_KILLS: count})
    return count


def complete(trial: Trial) -> None:
    """Give a run its configuration where its maker was killed before it could."""
    if not RunDirectory(trial.folder).config.exists():
        with held(trial):
            pass


@contextmanager
def held(trial: Trial) -> Iterator[RunDirectory]:
    """The run of a trial under its lock, made and given its configuration where it has none."""
    wait_for(trial.folder)
    if not has_record(trial.folder):
        with suppress(ConfigError):  # made a moment ago
            RunDirectory.at(trial.folder, trial.folder.name)
    run = RunDirectory.open(trial.folder)
    run.lock()
    try:
        if not run.config.exists():
            run.write_text("config.yaml", trial.config)
            command = [redact(word) for word in trial.command]
            run.write_record(command=command, seed=trial.seed, **about(trial))
        yield run
    finally:
        run.unlock()


def has_checkpoint(trial: Trial) -> bool:
    """Whether a trial was trained for a while: once its data or its disk are back, it can go on."""
    return any((trial.folder / "checkpoints").glob("step-*"))


def about(trial: Trial) -> dict[str, Any]:
    """What a run's record says of its sweep."""
    return {"sweep": {"name": trial.folder.parent.name, "point": trial.number, "values": trial.values}}


def wait_for(folder: Path) -> None:
    """Wait until nobody holds a run's lock; raises LockedError when that takes longer than a dying process does."""
    path, until = folder / "run.lock", time.monotonic() + PATIENCE
    while lock.is_held(path):
        if time.monotonic() > until:
            who = lock.holder(path).get("pid", "another process")
            raise LockedError(f"the run {folder} is in the hands of process {who}; wait for it or stop it")
        time.sleep(0.02)


def _record(folder: Path) -> dict[str, Any]:
    try:
        return RunDirectory(folder).record()
    except ConfigError:
        return {}

"""The recipe for going on with a run: everything is checked before anything of it is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.build import check
from dlrun.config import change, load_config
from dlrun.errors import CheckpointError, ConfigError, DataError
from dlrun.identity import config_text, experiment_key, identity
from dlrun.run import Outcome, describe_experiment, finish
from dlrun.session import Session, open_session, record_start, recorded
from dlrun.tracking.provenance import provenance
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Callback, Reporter
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.peers import ALONE, Peers
from dlrun.training.signals import watch_signals

# What may change when a run goes on: its length, its logging, the machine's own settings.
CHANGEABLE = (
    "trainer.epochs", "trainer.steps", "trainer.budget", "trainer.early_stop", "trainer.checkpoint_every",
    "trainer.workers", "trainer.threads", "trainer.device", "trainer.devices", "tracking.",
)  # fmt: skip


def resume(
    path: Path,
    *,
    overrides: list[str],
    reporter: Reporter,
    trusted: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    peers: Peers = ALONE,
) -> Outcome:
    """Go on with a run in its own directory, from its newest good checkpoint, to the bits it would have had.

    ``callbacks`` watch the run beside the usual ones; ``peers`` are its processes, of which this is the first.

    Raises:
        ConfigError: an override, or an edited config.yaml, that would make it another experiment.
        CheckpointError: there are checkpoints, but none is good.
        DataError: the data is not what it was.
        LockedError: another process works on the run.
    """
    with watch_signals() as own:
        stop = peers.agreed(own)
        run = RunDirectory.open(path)
        run.lock()
        try:  # nothing of the run is touched until it is sure that it can go on
            record = run.record()
            if record.get("status") == "done" and not overrides:
                longer = f"a longer run: dlrun resume {path} trainer.epochs=..."
                reporter.note(f"{path} is finished: nothing to resume ({longer})")
                run.unlock()
                return Outcome(path, "done", _final_metrics(record), 0)
            more = [f"trainer.devices={peers.size}"] if peers.size > 1 else []
            experiment = check(change(load_config(run.config), [*overrides, *more], CHANGEABLE), trusted)
            state, checkpoint = _newest_state(run, reporter)
            reporter.experiment(describe_experiment(experiment), run.path)
            at, learnt = (state["step"], state["task"]) if state else (0, None)
            peers.begin(run, experiment.settings.seed, config_text(experiment), checkpoint)
            session = open_session(experiment, run, reporter, stop, at, learnt, callbacks, peers=peers)
            if state is not None:
                take_up(session, state, reporter)
        except BaseException:
            run.unlock()
            raise
        with recorded(run):
            record_resumption(session, record, state, reporter)
            return finish(session, session.trainer.fit(), reporter, stop)


def devices_of(path: Path, overrides: list[str], trusted: Sequence[str] = ()) -> int:
    """On how many devices a run goes on; 1 where there is nothing to do.

    Raises:
        ConfigError: several devices, and something that cannot go along.
    """
    run = RunDirectory.open(path)
    if run.record().get("status") == "done" and not overrides:
        return 1
    config = change(load_config(run.config), overrides, CHANGEABLE)
    return 1 if config.trainer.get("devices", 1) == 1 else check(config, trusted).settings.devices


def record_resumption(
    session: Session, record: dict[str, Any], state: dict[str, Any] | None, reporter: Reporter
) -> None:
    """Write down that a run goes on from ``state`` (None: from its beginning), and drop what it is to do again."""
    run, attempts, key = session.run, record.get("attempts"), experiment_key(session.experiment)
    run.write_text("config.yaml", config_text(session.experiment))
    run.write_record(
        status="running",
        attempts=attempts + 1 if isinstance(attempts, int) else 1,
        key=key if record.get("key") == key else None,  # trained in part as something else: nobody may reuse it
        error=None,
        exit_code=None,
        packed=None,  # a run that goes on goes on alone
    )
    record_start(session)
    if state is None:  # a best network without a state to go on from belongs to nothing
        (run.checkpoints / "best.ckpt").unlink(missing_ok=True)
    _warn_of_changes(record, reporter)
    session.history.truncate(session.trainer.step if state else -1)
    for note in session.history.notes:
        reporter.note(note)


def _newest_state(run: RunDirectory, reporter: Reporter) -> tuple[dict[str, Any] | None, Path | None]:
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.sweep_temporaries()
    found = checkpoints.newest()
    if found is None:
        reporter.note("there is no checkpoint yet: the run starts again from step 0")
        return None, None
    state, path, rejected = found
    for sentence in rejected:
        reporter.warn(sentence)
    reporter.note(f"going on from step {state['step']:,} ({path.name})")
    return state, path


def take_up(session: Session, state: dict[str, Any], reporter: Reporter) -> None:
    """Load the state into everything that was just built."""
    if state["fingerprint"] != session.splits.fingerprint:
        name = session.splits.facts.name
        raise DataError(
            f"the data '{name}' is not what this run was trained on (its fingerprint differs); "
            f"put the old files back, or start anew: dlrun train data={name}"
        )
    _refuse_edits(state["experiment"], identity(session.experiment), session.run.config)
    best: dict[str, Any] | None = None
    try:
        best = session.checkpoints.best()
    except CheckpointError as error:
        reporter.warn(f"{error}; the best network is chosen anew from here on")
    try:
        session.trainer.load_state_dict(state, best)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint does not fit the model of {session.run.config}: {why}") from error


def _refuse_edits(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """A run goes on as the experiment it was; what may change is CHANGEABLE."""
    free = tuple(name for name in CHANGEABLE if not name.endswith("."))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in free:
            raise ConfigError(
                f"{path} has {key} {now.get(key)}, but the run was trained with {before.get(key)}; "
                "put it back, or start a new run"
            )


def _warn_of_changes(record: dict[str, Any], reporter: Reporter) -> None:
    """Bits are promised for the same torch, machine and thread count; say so when one of them changed."""
    now = provenance()
    for name in ("versions", "machine", "threads"):
        before, after = record.get(name) or {}, now[name]
        changed = [f"{k}: {before[k]} -> {after[k]}" for k in after if k in before and before[k] != after[k]]
        if changed:
            reporter.warn(f"since the run began, {name} changed ({', '.join(changed)}): the bits may differ")


def _final_metrics(record: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in (record.get("metrics") or {}).items()}

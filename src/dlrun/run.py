"""The recipes: train, resume, evaluate, predict, describe. Each reads from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from dlrun.build import Experiment, build_model, check
from dlrun.config import change, load_config
from dlrun.data.facts import Facts
from dlrun.errors import CheckpointError, DataError
from dlrun.models.summary import Row, on_meta, summarize
from dlrun.session import Session, config_text, open_session, recorded
from dlrun.tasks import Evaluation
from dlrun.tracking.provenance import git_diff, provenance, redact
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Reporter
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.evaluation import EvaluationStopped
from dlrun.training.evaluation import evaluate as evaluate_part
from dlrun.training.signals import StopFlag, watch_signals


@dataclass
class Outcome:
    """How a run ended."""

    path: Path
    status: str
    metrics: dict[str, float]
    exit_code: int


@dataclass
class Description:
    """A resolved experiment: what was chosen and why, and every layer of the network."""

    choices: list[tuple[str, str, str]]
    layers: list[Row]
    facts: Facts
    config: DictConfig
    notes: list[str] = field(default_factory=list)


def describe(config: DictConfig, trusted: Sequence[str] = ()) -> Description:
    """Check a configuration and lay it out; reads no data that is known by name."""
    return _describe(check(config, trusted))


def train(
    config: DictConfig, *, root: Path, command: list[str], reporter: Reporter, trusted: Sequence[str] = ()
) -> Outcome:
    """Train one experiment in a new run directory under ``root``.

    Raises:
        DlrunError: a class of ``dlrun.errors``; what is wrong with the configuration is found before data is read.
    """
    with watch_signals() as stop:
        experiment = check(config, trusted)
        run = RunDirectory.create(root, _label(experiment))
        with recorded(run):
            run.lock()
            run.write_text("config.yaml", config_text(experiment))
            diff = git_diff()
            if diff:
                run.write_text("git.diff", diff)
            run.write_record(**_origin(experiment, command), attempts=1)
            reporter.experiment(_describe(experiment), run.path)
            session = open_session(experiment, run, reporter, stop)
            return finish(session, session.trainer.fit(), reporter, stop)


# What may change when a run goes on: its length, its logging, the machine's own settings.
CHANGEABLE = (
    "trainer.epochs", "trainer.steps", "trainer.budget", "trainer.early_stop", "trainer.checkpoint_every",
    "trainer.workers", "trainer.threads", "trainer.device", "tracking.",
)  # fmt: skip


def resume(path: Path, *, overrides: list[str], reporter: Reporter, trusted: Sequence[str] = ()) -> Outcome:
    """Go on with a run in its own directory, from its newest good checkpoint, to the bits it would have had.

    Raises:
        ConfigError: an override that would make it another experiment.
        CheckpointError: there are checkpoints, but none is good.
        DataError: the data is not what it was.
        LockedError: another process works on the run.
    """
    with watch_signals() as stop:
        run = RunDirectory.open(path)
        run.lock()
        record = run.record()
        if record.get("status") == "done" and not overrides:
            run.unlock()
            reporter.note(
                f"{path} is finished: nothing to resume (a longer run: dlrun resume {path} trainer.epochs=...)"
            )
            return Outcome(path, "done", _final_metrics(record), 0)
        with recorded(run):
            config = change(load_config(run.config), overrides, CHANGEABLE)
            experiment = check(config, trusted)
            state = _newest_state(run, reporter)
            run.write_text("config.yaml", config_text(experiment))
            run.write_record(status="running", attempts=int(record.get("attempts", 1)) + 1, error=None, exit_code=None)
            reporter.experiment(_describe(experiment), run.path)
            _warn_of_changes(record, reporter)
            session = open_session(experiment, run, reporter, stop, resumed_from=state["step"] if state else 0)
            if state is not None:
                _take_up(session, state, reporter)
            session.history.truncate(session.trainer.step if state else -1)
            return finish(session, session.trainer.fit(), reporter, stop)


def _newest_state(run: RunDirectory, reporter: Reporter) -> dict[str, Any] | None:
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.sweep_temporaries()
    found = checkpoints.newest()
    if found is None:
        reporter.note("there is no checkpoint yet: the run starts again from step 0")
        return None
    state, path, rejected = found
    for sentence in rejected:
        reporter.warn(sentence)
    reporter.note(f"going on from step {state['step']:,} ({path.name})")
    return state


def _take_up(session: Session, state: dict[str, Any], reporter: Reporter) -> None:
    """Load the state into everything that was just built."""
    if state["fingerprint"] != session.splits.fingerprint:
        name = session.splits.facts.name
        raise DataError(
            f"the data '{name}' is not what this run was trained on (its fingerprint differs); "
            f"put the old files back, or start anew: dlrun train data={name}"
        )
    weights: dict[str, Tensor] | None = None
    try:
        best = session.checkpoints.best()
        weights = None if best is None else best["model"]
    except CheckpointError as error:
        reporter.warn(f"{error}; the best network is chosen anew from here on")
    session.trainer.load_state_dict(state, weights)


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


def finish(session: Session, reason: str, reporter: Reporter, stop: StopFlag) -> Outcome:
    """Test the best network, write the final record and print the closing table."""
    trainer, run = session.trainer, session.run
    if reason == "interrupted":
        return _interrupted(session, stop, reporter)
    best = trainer.best
    tested = _test(session, stop)
    if stop:
        return _interrupted(session, stop, reporter)
    metrics = {name: value for name, value in trainer.latest.items() if name.startswith("train/")}
    if best is not None:
        metrics |= {f"val/{name}": value for name, value in best.metrics.items()}
    baseline: dict[str, float] = {}
    if tested is not None:
        metrics |= {f"test/{name}": value for name, value in tested.metrics.items()}
        baseline = tested.baseline
    if session.board is not None:
        session.board.finish(metrics, trainer.step)
    session.history.sync()
    run.write_record(
        status="done",
        exit_code=0,
        ended_by=reason,
        metrics=metrics | {f"baseline/{name}": value for name, value in baseline.items()},
        best=None if best is None else {"step": best.step, "metric": f"val/{trainer.goal.metric}", "value": best.value},
        **_progress(session),
    )
    title = "Test of the best network" if tested is not None else "Result"
    facts = {
        "ended by": {"finished": "the planned length"}.get(reason, reason),
        "steps": f"{trainer.step:,}",
        "epochs": f"{trainer.epoch:.4g}",
        "best at step": "-" if best is None else f"{best.step:,}",
        "training seconds": f"{trainer.seconds:.1f}",
    }
    reporter.closing(title, metrics, {f"test/{k}": v for k, v in baseline.items()}, run.path, facts)
    return Outcome(run.path, "done", metrics, 0)


def _test(session: Session, stop: StopFlag) -> Evaluation | None:
    """The best network (the last one when nothing is held out) on the test part."""
    trainer = session.trainer
    if session.test is None:
        return None
    if trainer.best is not None:
        trainer.model.load_state_dict(trainer.best.model)
    step = trainer.best.step if trainer.best is not None else trainer.step
    epoch = step / len(trainer.train)
    weights = nullcontext() if trainer.best is not None else trainer.average.applied()
    try:
        with weights:
            tested = evaluate_part(
                trainer.model, trainer.task, session.test, trainer.autocast,
                split="test", step=step, epoch=epoch, stop=stop,
            )  # fmt: skip
    except EvaluationStopped:
        return None
    at_the_end = replace(tested, step=trainer.step, epoch=trainer.epoch)
    for callback in trainer.callbacks:
        callback.on_evaluation(trainer, at_the_end)
    return tested


def _interrupted(session: Session, stop: StopFlag, reporter: Reporter) -> Outcome:
    code = 128 + stop.number
    session.history.sync()
    session.run.write_record(status="interrupted", exit_code=code, **_progress(session))
    reporter.note(f"stopped at step {session.trainer.step:,} and saved; go on with: dlrun resume {session.run.path}")
    return Outcome(session.run.path, "interrupted", dict(session.trainer.latest), code)


def _progress(session: Session) -> dict[str, Any]:
    trainer = session.trainer
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "steps": trainer.step,
        "epochs": trainer.epoch,
        "seconds": trainer.seconds,
        "timings": trainer.timings | {"steps": trainer.step},
    }


def _describe(experiment: Experiment) -> Description:
    with torch.device("meta"):
        model = build_model(experiment.node, experiment.facts, experiment.task.out_features(), experiment.trusted)
    layers = summarize(on_meta(model), experiment.facts.input_shape)
    return Description(experiment.choices, layers, experiment.facts, experiment.config, list(experiment.facts.notes))


def _label(experiment: Experiment) -> str:
    picked = experiment.node["choices"]
    return f"{picked.get('model')}-{picked.get('optimizer')}"


def _origin(experiment: Experiment, command: list[str]) -> dict[str, Any]:
    """Where a run comes from, for its record."""
    picked = experiment.node["choices"]
    return provenance() | {
        "command": [redact(word) for word in command],
        "device": str(experiment.device),
        "seed": experiment.settings.seed,
        "task": experiment.task.name,
        "model": picked.get("model"),
        "optimizer": picked.get("optimizer"),
        "choices": picked,
        "data": {"name": experiment.facts.name},
    }

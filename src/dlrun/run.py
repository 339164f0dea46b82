"""The recipes: train and describe, read from top to bottom. ``resume.py`` and ``trained.py`` have the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dlrun.build import Experiment, check
from dlrun.data.facts import Facts
from dlrun.identity import config_text, experiment_key
from dlrun.models.summary import Row
from dlrun.session import Session, open_session, record_start, recorded
from dlrun.tasks import Evaluation
from dlrun.tracking.provenance import git_diff, provenance, redact
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Callback, Reporter
from dlrun.training.evaluation import EvaluationStopped
from dlrun.training.evaluation import evaluate as evaluate_part
from dlrun.training.peers import ALONE, Peers
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
    return describe_experiment(check(config, trusted))


def train(
    config: DictConfig,
    *,
    root: Path,
    command: list[str],
    reporter: Reporter,
    trusted: Sequence[str] = (),
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    about: Mapping[str, Any] | None = None,
    peers: Peers = ALONE,
) -> Outcome:
    """Train one experiment in a new run directory under ``root``, or exactly at ``folder``.

    ``callbacks`` watch the run beside the usual ones; ``about`` is written into its record, such as its sweep;
    ``peers`` are the processes of the run, of which this is the first.

    Raises:
        DlrunError: a class of ``dlrun.errors``; what is wrong with the configuration is found before data is read.
    """
    with watch_signals() as own:
        stop = peers.agreed(own)
        experiment = check(config, trusted)
        run = new_run(experiment, root, folder)
        run.lock()
        with recorded(run):
            begin_record(experiment, run, command, about)
            peers.begin(run, experiment.settings.seed, config_text(experiment))
            reporter.experiment(describe_experiment(experiment), run.path)
            session = open_session(experiment, run, reporter, stop, callbacks=callbacks, peers=peers)
            record_start(session)
            return finish(session, session.trainer.fit(), reporter, stop)


def new_run(experiment: Experiment, root: Path, folder: Path | None) -> RunDirectory:
    """The directory of a new run, once it is sure that it can begin."""
    if experiment.settings.init_from is not None:
        RunDirectory.open(Path(experiment.settings.init_from).expanduser())  # refuses what is no run, at once
    return (
        RunDirectory.create(root, _label(experiment)) if folder is None else RunDirectory.at(folder, _label(experiment))
    )


def begin_record(
    experiment: Experiment, run: RunDirectory, command: list[str], about: Mapping[str, Any] | None = None
) -> None:
    """Write down what a run is and where it comes from; for the holder of its lock."""
    run.write_text("config.yaml", config_text(experiment))
    diff = git_diff()
    if diff:
        run.write_text("git.diff", diff)
    run.write_record(**_origin(experiment, command), **(about or {}), key=experiment_key(experiment), attempts=1)


def finish(session: Session, reason: str, reporter: Reporter, stop: StopFlag) -> Outcome:
    """Test the best network, write the final record and print the closing table."""
    trainer, run = session.trainer, session.run
    if reason == "interrupted":
        return _interrupted(session, stop, reporter)
    if trainer.best is not None and trainer.best.model is None:
        reporter.warn(f"the best network, of step {trainer.best.step:,}, was replaced on disk: the last one is tested")
        trainer.best = None
    best, pruned = trainer.best, reason == "pruned"
    tested = None if pruned else _test(session, stop)
    if stop:
        return _interrupted(session, stop, reporter)
    metrics = {name: value for name, value in trainer.latest.items() if name.startswith("train/")}
    if best is not None:
        metrics |= {f"val/{name}": value for name, value in best.metrics.items()}
    if tested is not None:
        metrics |= {f"test/{name}": value for name, value in tested.metrics.items()}
        metrics |= {f"baseline/{name}": value for name, value in tested.baseline.items()}
    else:
        metrics |= {name: value for name, value in trainer.latest.items() if name.startswith("baseline/")}
    if session.board is not None:
        session.board.finish(metrics, trainer.step)
    session.history.sync()
    run.write_record(
        status="pruned" if pruned else "done",
        exit_code=0,
        ended_by=reason,
        metrics=metrics,
        best=None if best is None else {"step": best.step, "metric": f"val/{trainer.goal.metric}", "value": best.value},
        **_progress(session),
    )
    _close(session, reason, metrics, reporter)
    return Outcome(run.path, "pruned" if pruned else "done", metrics, 0)


def _close(session: Session, reason: str, metrics: dict[str, float], reporter: Reporter) -> None:
    """The closing table: the best network's metrics beside the naive baseline's, then the facts of the run."""
    trainer, best = session.trainer, session.trainer.best
    part = "test" if any(name.startswith("test/") for name in metrics) else "val"
    baseline = {f"{part}/{k.removeprefix('baseline/')}": v for k, v in metrics.items() if k.startswith("baseline/")}
    shown = {name: value for name, value in metrics.items() if name.startswith(("val/", "test/"))}
    facts = {
        "ended by": {"finished": "the planned length"}.get(reason, reason),
        "steps": f"{trainer.step:,}",
        "epochs": f"{trainer.epoch:.4g}",
        "best at step": "-" if best is None else f"{best.step:,}",
        "last training loss": f"{metrics['train/loss']:.4g}" if "train/loss" in metrics else "-",
        "training seconds": f"{trainer.seconds:.1f}",
    }
    title = "The best network" if best is not None else "The last network"
    reporter.closing(title, shown, baseline, session.run.path, facts)


def _test(session: Session, stop: StopFlag) -> Evaluation | None:
    """The best network (the last one when nothing is held out) on the test part."""
    trainer = session.trainer
    if session.test is None:
        return None
    step, weights = trainer.step, trainer.average.applied()
    if trainer.best is not None and trainer.best.model is not None:
        trainer.model.load_state_dict(trainer.best.model)
        step, weights = trainer.best.step, nullcontext()
    epoch = step / len(trainer.train)
    try:
        with weights:
            tested = evaluate_part(
                trainer.model, trainer.task, session.test, trainer.autocast,
                split="test", step=step, epoch=epoch, stop=stop, viewed=trainer.viewed,
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


def describe_experiment(experiment: Experiment) -> Description:
    """What was chosen and why, and every layer of the network."""
    notes = list(experiment.facts.notes)
    return Description(experiment.choices, experiment.layers, experiment.facts, experiment.config, notes)


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

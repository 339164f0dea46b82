"""The recipe: build what ``dlrun train`` would train, train it a short while, and say where the time goes.

The run lives in a temporary folder, which is removed at the end, however it ends.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dlrun.algorithms.closure import Closure
from dlrun.build import Experiment, check
from dlrun.errors import ConfigError
from dlrun.loading import load
from dlrun.profiling import advice, flops, peaks
from dlrun.profiling.alone import measure_alone
from dlrun.profiling.clock import meter_of
from dlrun.profiling.operators import OperatorRecorder, trace_file
from dlrun.profiling.phases import DATA, as_written
from dlrun.profiling.report import Profile, Step, split
from dlrun.profiling.surroundings import Live, check_room, signals_raise
from dlrun.profiling.timings import Limits, Timings, measure
from dlrun.profiling.trials import Trials, endless
from dlrun.profiling.ways import Subject, try_ways, trying
from dlrun.session import Session, open_session, prepare_process
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Reporter, Saver
from dlrun.training.signals import StopFlag

TRY_SECONDS = 3.0
SEEN_STEPS, SEEN_SECONDS = 20, 1.0  # that torch's profiler watches
HOST = "blocks of whole steps, timed as they are, in turn with blocks whose phases are stamped by the processor's clock"
DEVICE = (
    "blocks of whole steps, timed as they are, in turn with blocks whose phases are stamped by events on the GPU's "
    "stream; nothing waits for the GPU within a block, so a phase is what the GPU worked or stood idle for it"
)


@dataclass(frozen=True)
class Wishes:
    """What was asked for.

    Attributes:
        limits: how long to measure.
        trace: a JSON file, or a folder of TensorBoard.
        compiles: try engine=compile as well.
        try_seconds: for other settings, all of them together; 0 tries none.
    """

    limits: Limits = field(default_factory=Limits)
    trace: Path | None = None
    compiles: bool = False
    try_seconds: float = field(default_factory=lambda: TRY_SECONDS)


@signals_raise()
def profile(
    config: DictConfig, words: Sequence[str], wishes: Wishes, reporter: Reporter, trusted: Sequence[str] = ()
) -> Profile:
    """Where the time of a training goes.

    Args:
        config: as composed from ``words``.

    Raises:
        StoppedError: by SIGTERM or SIGHUP.
        DlrunError: a class of ``dlrun.errors``, as ``dlrun train`` raises it.
    """
    notes: list[str] = []
    load_before, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load_before > cores:
        notes.append(f"others computed too ({load_before:.1f} processes on {cores} cores): repeat it when they do not")
    experiment = check(_without_classifier(config, notes), trusted)
    devices = getattr(experiment.settings, "devices", 1)
    if devices != 1:
        raise ConfigError(f"trainer.devices={devices}: a profile is of one process; leave it at trainer.devices=1")
    if wishes.trace is not None:
        check_room(wishes.trace)
    live = Live(reporter, wishes.limits)
    with tempfile.TemporaryDirectory(prefix="dlrun-profile-") as folder:
        prepare_process(experiment)
        run = RunDirectory.create(Path(folder), "profile")
        loaded = load(experiment)
        session = open_session(experiment, run, live, StopFlag(), loaded=loaded)
        live.expect(trying(wishes.compiles, wishes.try_seconds, loaded.train.workers is not None))
        live.expect(0.0 if as_written(session.trainer) else wishes.limits.seconds)
        try:
            return _measured(session, loaded, words, wishes, notes, live)
        finally:
            for batches in (loaded.train, loaded.val, loaded.test):
                if batches is not None:
                    batches.close()


def _measured(
    session: Session, loaded: Any, words: Sequence[str], wishes: Wishes, notes: list[str], live: Live
) -> Profile:
    experiment, trainer = session.experiment, session.trainer
    usual, model = trainer.plan, copy.deepcopy(trainer.model)
    recorder = OperatorRecorder(trainer, experiment.device)
    seen = _Seen(recorder, wishes.limits)
    try:
        timings = measure(trainer, wishes.limits, meter_of(experiment.device), after=seen.script)
    finally:
        session.history.close()
        if session.board is not None:
            session.board.close()
    operators = recorder.read(seen.steps)
    trace = None if wishes.trace is None else recorder.save(trace_file(wishes.trace, run_label(experiment)))
    saver = next(c for c in trainer.callbacks if isinstance(c, Saver))
    step = split(timings, usual.log_every, saver.every, saver.share, saver.LONGEST)
    waits = step.share(DATA[1]) >= advice.WAITING
    subject = Subject(experiment, loaded, trainer, model, timings.bare.middle, waits)
    work = _counted(subject, timings, notes)
    inside = _inside(subject, wishes.limits, live) if step.in_one_piece else None
    trials = try_ways(subject, wishes.compiles, wishes.try_seconds, live) if wishes.try_seconds else Trials()
    peak = peaks.peak(experiment.device, experiment.precision.dtype, experiment.precision.autocast(experiment.device))
    evaluating = sum(timings.evaluation.values())
    rate = None if work is None else work.per_step / step.seconds / peak.flops
    share = evaluating / (evaluating + usual.evaluate_every * step.seconds)
    verdict = advice.verdict(
        advice.Seen(
            step, timings, share, usual.evaluate_every, usual.log_every, operators, trials, session.splits.facts,
            trainer.train.workers, rate, experiment.device.type == "cuda",
        ),
        words,
    )  # fmt: skip
    notes += _notes(session, timings, step.left_over, step.tolerance)
    about = _about(session, loaded.seconds)
    method = DEVICE if experiment.device.type == "cuda" else HOST
    return Profile(
        about, timings, step, usual.evaluate_every, work, peak, operators, trials, verdict, method, trace, notes, inside
    )


class _Seen:
    """The steps that torch's profiler watches: as many as fit into a second, after the measurement."""

    def __init__(self, recorder: OperatorRecorder, limits: Limits) -> None:
        self.recorder, self.steps, self.most = recorder, 1, limits.steps or SEEN_STEPS

    def script(self, trainer: Any) -> Iterator[int]:
        started, before = time.perf_counter(), trainer.step
        yield 1
        each = (time.perf_counter() - started) / (trainer.step - before)
        before = trainer.step
        wanted = max(1, min(SEEN_STEPS, self.most, int(SEEN_SECONDS / max(each, 1e-6))))
        for steps in self.recorder.steps(wanted):
            before = trainer.step
            yield steps
            self.steps = trainer.step - before


def _inside(subject: Subject, limits: Limits, live: Live) -> Step:
    """The parts of the same step as it is written, without the engine that takes it in one piece."""
    live.turn_to(limits.seconds)
    (_, algorithm), batches = subject.built(subject.experiment), endless(subject.loaded.train.epoch)
    timings = measure_alone(algorithm, batches, limits, meter_of(subject.experiment.device))
    return split(timings, 1, None, 1.0, 1.0)


def _counted(subject: Subject, timings: Timings, notes: list[str]) -> flops.Work | None:
    try:
        batch = next(iter(subject.loaded.train.epoch(0)))
        return flops.count(subject.model, subject.experiment.algorithm, batch).at(timings.calls)
    except (RuntimeError, TypeError, AttributeError) as error:  # an operator or a model that no counter can follow
        notes.append(f"operations were not counted: {str(error).splitlines()[0][:200]}")
        return None


def run_label(experiment: Experiment) -> str:
    """MODEL-OPTIMIZER."""
    picked = experiment.node["choices"]
    return f"{picked.get('model')}-{picked.get('optimizer')}"


def _about(session: Session, load_seconds: float) -> dict[str, Any]:
    experiment, trainer = session.experiment, session.trainer
    picked, device = experiment.node["choices"], experiment.device
    return {
        **{name: picked.get(name) for name in ("data", "model", "algorithm", "optimizer", "engine")},
        "precision": experiment.precision.dtype,
        "batch_size": trainer.train.batch_size,
        "steps_per_epoch": len(trainer.train),
        "placement": trainer.train.placement,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else peaks.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "once": {"load": load_seconds},
    }


def _notes(session: Session, timings: Timings, left_over: float, tolerance: float) -> list[str]:
    found = []
    algorithm: Any = session.trainer.algorithm
    if getattr(algorithm, "pretraining", 0) > session.trainer.step:
        found.append(
            "these steps train the layers one by one; algorithm.steps_per_layer=0 profiles the descent after them"
        )
    if isinstance(algorithm, Closure):
        calls = timings.calls.get(flops.FORWARD, 0.0)
        found.append(f"the optimizer asks for the loss as often as it needs it, here {calls:.3g} times a step")
    if abs(left_over) > tolerance:
        found.append(
            f"the parts miss the step by {left_over:+.0%}: the machine was busy with something else, or too few steps"
        )
    if timings.evaluation_is_first:
        found.append("one evaluation was timed, the first, which may be slower than the others")
    if session.checkpoints is not None:
        found.append(f"logs and checkpoints were written to {tempfile.gettempdir()}; on a slower disk they cost more")
    return found


def _without_classifier(config: DictConfig, notes: list[str]) -> DictConfig:
    """A generator's judge is not trained for this."""
    if OmegaConf.select(config, "task.classifier") != "auto":
        return config
    config = copy.deepcopy(config)
    OmegaConf.update(config, "task.classifier", None)
    notes.append("evaluations were timed without the Frechet distance, whose classifier was not trained")
    return config

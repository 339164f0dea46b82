"""From a checked experiment and a run directory to a Trainer that can go, and from its end to the final record."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.algorithms import Algorithm
from dlrun.build import Experiment
from dlrun.data import Splits
from dlrun.data.batches import Batches
from dlrun.engines.recording import GaveUp
from dlrun.engines.take_and_view import TakeAndView, take_and_view
from dlrun.errors import ConfigError, DivergedError, DlrunError, MemoryExhaustedError
from dlrun.feature_classifier import provide_classifier
from dlrun.identity import hyperparameters, identity
from dlrun.loading import Loaded, all_targets, load
from dlrun.many_devices import check_started, notes, sharded
from dlrun.models.init_from import initialise
from dlrun.tracking.history import History
from dlrun.tracking.run_directory import RunDirectory
from dlrun.tracking.scalars import Scalars
from dlrun.tracking.tensorboard import TensorBoard
from dlrun.training.average import Average, ExponentialAverage, NoAverage
from dlrun.training.callbacks import Callback, Progress, Recorder, Reporter, Saver
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.data_wait import data_wait
from dlrun.training.heap import keep_freed_memory
from dlrun.training.peers import ALONE, Peers
from dlrun.training.plan import Plan
from dlrun.training.randomness import seed_everything
from dlrun.training.signals import StopFlag
from dlrun.training.taking import one_step
from dlrun.training.trainer import Trainer

AS_WRITTEN = "as written"  # how the steps are taken, in the run's record


@dataclass
class Session:
    """A run that is ready to train: its parts, and what watches it."""

    experiment: Experiment
    run: RunDirectory
    splits: Splits
    trainer: Trainer
    history: History
    checkpoints: Checkpoints
    board: TensorBoard | None
    test: Batches | None
    load_seconds: float


def open_session(
    experiment: Experiment,
    run: RunDirectory,
    reporter: Reporter,
    stop: StopFlag,
    resumed_from: int | None = None,
    learnt: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    loaded: Loaded | None = None,
    peers: Peers = ALONE,
) -> Session:
    """Load the data, build the network from the seed, and connect everything.

    ``learnt`` is what the task knows of the training part already, of a run that goes on from a checkpoint; ``loaded``
    its data, where another trial of a pack has read them; ``peers`` the processes of the run, of which the first alone
    writes and reports.
    """
    settings, task = experiment.settings, experiment.task
    check_started(experiment, peers)
    prepare_process(experiment)
    peers.in_turn(lambda may_train: provide_classifier(experiment, run, reporter, stop, may_train), stop)
    loaded = loaded or load(experiment, (peers.rank, peers.size), peers.keep())
    splits, train = loaded.splits, loaded.train
    model = network(experiment, all_targets(splits.train), train, learnt, reporter)
    algorithm = experiment.algorithm(model)
    for sentence in notes(experiment, model):
        reporter.note(sentence)
    take_step = experiment.engine.prepare(algorithm)
    average: Average = ExponentialAverage(model, settings.ema) if settings.ema else NoAverage()
    plan = _plan(experiment, train, algorithm)
    history, checkpoints = History(run.history), Checkpoints(run.checkpoints)
    board = _board(experiment, run, resumed_from) if peers.rank == 0 and not sharded(experiment) else None
    saver = _saver(experiment, splits, peers.sink(checkpoints), history)
    watching = [*_numbers(experiment, run, board, resumed_from), Recorder(history), Progress(reporter)]
    watching += data_wait((train, loaded.val, loaded.test), reporter)
    engine = _take_and_view(experiment, run, reporter, resumed_from)
    trainer = Trainer(
        model=model, task=task, facts=splits.facts,
        algorithm=algorithm, take_step=take_step, take=engine.take, viewed=engine.viewed,
        schedule=experiment.schedule, average=average, precision=experiment.precision,
        train=train, val=loaded.val, plan=plan, goal=settings.goal(task.monitor, task.metric_names()),
        stop=stop, callbacks=peers.watchers(watching, saver, callbacks), peers=peers,
    )  # fmt: skip
    return Session(experiment, run, splits, trainer, history, checkpoints, board, loaded.test, loaded.seconds)


def _numbers(
    experiment: Experiment, run: RunDirectory, board: TensorBoard | None, resumed_from: int | None
) -> list[Callback]:
    """What writes for TensorBoard: the board, or, where no process can look at the whole network, its numbers alone."""
    if board is not None:
        return [board]
    shown = sharded(experiment) and experiment.node["tracking"]["tensorboard"]
    return [Scalars(run.path, resumed_from)] if shown else []


def _take_and_view(
    experiment: Experiment, run: RunDirectory, reporter: Reporter, resumed_from: int | None
) -> TakeAndView:
    """How the engine takes the steps. A run that went on without recordings does so from there again, to its bits."""

    def without(found: GaveUp) -> None:
        run.write_record(engine=AS_WRITTEN, engine_reason=found.reason, engine_step=found.step)
        reporter.note(f"the steps run as they are written, not recorded: {found.reason}")

    record = {} if resumed_from is None else run.record()
    before, step = None, record.get("engine_step")  # the step stays in the record while the run is on its way there
    if isinstance(step, int):
        before = GaveUp(step, str(record.get("engine_reason")))
    return take_and_view(experiment.engine, experiment.device, experiment.viewed, without, before, resumed_from or 0)


def network(
    experiment: Experiment, targets: torch.Tensor, train: Batches, learnt: dict[str, Any] | None, reporter: Reporter
) -> nn.Module:
    """The network from its seed; a new run's task learns from the training part, and the network takes what it needs.

    That is from the data a mean or landmarks (``prepare``), from another run its layers (``trainer.init_from``).
    """
    experiment.task.fit(targets, train.in_order)
    if learnt is not None:
        experiment.task.restore(learnt)
    seed_everything(experiment.settings.seed)
    model = experiment.model().to(experiment.device)
    if learnt is not None:
        return model
    take = getattr(model, "prepare", None)
    if take is not None:
        with torch.no_grad():
            take(train.in_order)
    source = experiment.settings.init_from
    if source is not None:
        state = Checkpoints(RunDirectory.open(Path(source).expanduser()).checkpoints).network()
        if state is None:
            raise ConfigError(f"trainer.init_from={source}: that run has no checkpoint yet")
        for sentence in initialise(model, state["model"]):
            reporter.note(sentence)
    return model


def _plan(experiment: Experiment, train: Batches, algorithm: Algorithm) -> Plan:
    """Lengths and intervals; a run that would end while its layers are still trained one by one is refused."""
    plan = experiment.settings.plan(len(train), experiment.node["tracking"]["every"])
    first = getattr(algorithm, "pretraining", 0)
    if plan.total_steps is not None and plan.total_steps <= first:
        raise ConfigError(
            f"the run has {plan.total_steps:,} steps, and training its layers one by one takes {first:,} of them: "
            "set a smaller algorithm.steps_per_layer, or more trainer.epochs"
        )
    return plan


def _saver(experiment: Experiment, splits: Splits, checkpoints: Checkpoints, history: History) -> Saver:
    """Checkpoints hold beside the training state all that ``predict`` needs."""
    every = experiment.settings.checkpoint_every
    extra = {
        "facts": asdict(splits.facts),
        "task": experiment.task.state(),
        "preprocess": splits.preprocess.state(),
        "fingerprint": splits.fingerprint,
        "experiment": identity(experiment),
    }
    return Saver(checkpoints, history, None if every == "auto" else int(every), extra)


def record_start(session: Session) -> None:
    """Write what is known of a run before its first step."""
    facts, trainer = session.splits.facts, session.trainer
    session.run.write_record(
        data={"name": facts.name, "fingerprint": session.splits.fingerprint, "sizes": facts.sizes},
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        total_steps=trainer.plan.total_steps,
        placement=trainer.train.placement,
        channels_last=session.experiment.channels_last,
        load_seconds=session.load_seconds,
        engine=AS_WRITTEN if trainer.take is one_step else "recorded",
    )


def prepare_process(experiment: Experiment) -> None:
    """Threads, memory, deterministic kernels, number format and anomaly detection of this process."""
    settings = experiment.settings
    if experiment.device.type == "cpu":
        keep_freed_memory()
    if settings.threads != "auto":
        torch.set_num_threads(int(settings.threads))
    exact = experiment.device.type == "cpu" if settings.deterministic == "auto" else bool(settings.deterministic)
    if exact and experiment.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    _only_deterministic_kernels(exact)
    # Filling fresh memory costs time and only makes bugs of kernels repeatable.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not exact
    torch.autograd.set_detect_anomaly(settings.detect_anomaly, check_nan=settings.detect_anomaly)
    experiment.precision.prepare()


def _only_deterministic_kernels(exact: bool) -> None:
    """``torch.use_deterministic_algorithms``, which would import the compiler, for seconds, to tell it too."""
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(exact)
    else:
        torch._C._set_deterministic_algorithms(exact, warn_only=False)
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = str(int(exact))  # the compiler reads it where it is imported later


def _board(experiment: Experiment, run: RunDirectory, resumed_from: int | None) -> TensorBoard | None:
    tracking = experiment.node["tracking"]
    if not tracking["tensorboard"]:
        return None
    task = experiment.task
    goal = experiment.settings.goal(task.monitor, task.metric_names()).metric
    names = list(dict.fromkeys(f"{part}/{metric}" for part in ("test", "val") for metric in (goal, "loss")))
    purge = None if resumed_from is None else resumed_from + 1
    return TensorBoard(run.path, hyperparameters(experiment), names, purge, tracking["share"])


@contextmanager
def recorded(run: RunDirectory) -> Iterator[None]:
    """Write how a run ended into its record when it ends with an error, and let go of its lock."""
    try:
        yield
    except BaseException as error:
        status, code = _failure(error)
        _try_record(run, status=status, exit_code=code, error=f"{type(error).__name__}: {error}"[:2000])
        if code == MemoryExhaustedError.exit_code and not isinstance(error, DlrunError):
            raise MemoryExhaustedError(
                "the memory is full; use a smaller trainer.batch_size, or trainer.accumulate=4 for the same gradient "
                "in a quarter of the memory"
            ) from error
        raise
    finally:
        run.unlock()


def _try_record(run: RunDirectory, **changes: Any) -> None:
    """A full disk must not hide why a run failed."""
    try:
        run.write_record(finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **changes)
    except DlrunError:
        return


def _failure(error: BaseException) -> tuple[str, int]:
    if isinstance(error, DivergedError):
        return "diverged", error.exit_code
    if isinstance(error, DlrunError):
        return "failed", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
    return "failed", MemoryExhaustedError.exit_code if out_of_memory else 1

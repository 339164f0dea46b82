"""From a checked experiment and a run directory to a Trainer that can go, and from its end to the final record."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch.utils.data import Subset

from dlrun.build import GROUPS, Experiment, limited
from dlrun.data import Examples, Part, Splits
from dlrun.data.batches import Batches
from dlrun.errors import DivergedError, DlrunError, MemoryExhaustedError
from dlrun.tracking.history import History
from dlrun.tracking.run_directory import RunDirectory
from dlrun.tracking.tensorboard import TensorBoard
from dlrun.training.average import Average, ExponentialAverage, NoAverage
from dlrun.training.callbacks import Progress, Recorder, Reporter, Saver
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.randomness import seed_everything
from dlrun.training.signals import StopFlag
from dlrun.training.trainer import Trainer


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
    experiment: Experiment, run: RunDirectory, reporter: Reporter, stop: StopFlag, resumed_from: int | None = None
) -> Session:
    """Load the data, build the network from the seed, and connect everything."""
    settings = experiment.settings
    prepare_process(experiment)
    started = time.perf_counter()
    splits = limit_parts(experiment.data.load(), settings.limit)
    experiment.task.fit(_targets(splits.train))
    train, val, test = (make_batches(experiment, splits, part) for part in PARTS)
    assert train is not None, "a data set always has a training part"
    seed_everything(settings.seed)
    model = experiment.model().to(experiment.device)
    updater = experiment.updater(model)
    average: Average = ExponentialAverage(model, settings.ema) if settings.ema else NoAverage()
    history, checkpoints = History(run.history), Checkpoints(run.checkpoints)
    board = _board(experiment, run, resumed_from)
    watching = [Recorder(history), Progress(reporter), _saver(experiment, splits, checkpoints, history)]
    trainer = Trainer(
        model=model,
        task=experiment.task,
        facts=splits.facts,
        take_step=experiment.engine.prepare(experiment.algorithm(model, updater)),
        updater=updater,
        schedule=experiment.schedule,
        average=average,
        precision=experiment.precision,
        train=train,
        val=val,
        plan=settings.plan(len(train), experiment.node["tracking"]["every"]),
        goal=settings.goal(experiment.task.monitor, experiment.task.metric_names()),
        stop=stop,
        callbacks=watching if board is None else [board, *watching],
    )
    loaded = time.perf_counter() - started
    return Session(experiment, run, splits, trainer, history, checkpoints, board, test, loaded)


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
        load_seconds=session.load_seconds,
    )


def prepare_process(experiment: Experiment) -> None:
    """Threads, deterministic kernels, number format and anomaly detection of this process."""
    settings = experiment.settings
    if settings.threads != "auto":
        torch.set_num_threads(int(settings.threads))
    exact = experiment.device.type == "cpu" if settings.deterministic == "auto" else bool(settings.deterministic)
    if exact and experiment.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(exact)
    # Filling fresh memory costs time and only makes bugs of kernels repeatable.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not exact
    torch.autograd.set_detect_anomaly(settings.detect_anomaly, check_nan=settings.detect_anomaly)
    experiment.precision.prepare()


def limit_parts(splits: Splits, limit: dict[str, float | None]) -> Splits:
    """The parts that ``trainer.limit`` leaves, chosen at random once and for all."""
    parts: dict[str, Any] = {
        name: _limited_part(getattr(splits, name), limit.get(name)) for name in ("train", "val", "test")
    }
    sizes = {name: len(cast(Sized, part)) for name, part in parts.items()}
    return replace(splits, facts=replace(splits.facts, sizes=sizes), **parts)


def _limited_part(part: Part, limit: float | None) -> Part:
    size = len(cast(Sized, part))
    count = limited(size, limit) if size else 0
    if count == size:
        return part
    rows = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count].sort().values
    if isinstance(part, Examples):
        return Examples(part.inputs[rows], part.targets[rows])
    return Subset(part, rows.tolist())


def make_batches(experiment: Experiment, splits: Splits, name: str) -> Batches | None:
    """Batches of a part, None when it is empty. Evaluation takes large batches: they cost no accuracy."""
    part: Part = getattr(splits, name)
    size = len(cast(Sized, part))
    if not size:
        return None
    settings = experiment.settings
    training = name == "train"
    workers = 0 if isinstance(part, Examples) else _workers(settings.workers)
    return Batches(
        part,
        preprocess=splits.preprocess,
        batch_size=min(size, experiment.batch_size if training else max(EVALUATION_BATCH, experiment.batch_size)),
        device=experiment.device,
        seed=settings.seed,
        augment=getattr(experiment.data, "augment", None) if training else None,
        workers=workers,
    )


EVALUATION_BATCH = 500
PARTS = ("train", "val", "test")


def _workers(wanted: int | str) -> int:
    return min(8, os.cpu_count() or 1) if wanted == "auto" else int(wanted)


def _targets(part: Part) -> torch.Tensor:
    """All targets of the training part; a streamed folder knows them without reading a picture."""
    if isinstance(part, Examples):
        return part.targets
    if isinstance(part, Subset):
        return _targets(part.dataset)[torch.tensor(part.indices)]
    targets: torch.Tensor = part.targets  # type: ignore[attr-defined]
    return targets


def _board(experiment: Experiment, run: RunDirectory, resumed_from: int | None) -> TensorBoard | None:
    tracking = experiment.node["tracking"]
    if not tracking["tensorboard"]:
        return None
    task = experiment.task
    goal = experiment.settings.goal(task.monitor, task.metric_names()).metric
    names = list(dict.fromkeys(f"{part}/{metric}" for part in ("test", "val") for metric in (goal, "loss")))
    purge = None if resumed_from is None else resumed_from + 1
    return TensorBoard(run.path, hyperparameters(experiment), names, purge, tracking["share"])


SHOWN = ("data", "task", "model", "activation", "loss", "optimizer", "schedule", "trainer", "precision", "engine")


def hyperparameters(experiment: Experiment) -> dict[str, bool | int | float | str]:
    """What was picked and every number of it, flat: ``model`` mlp, ``optimizer.lr`` 0.001."""
    # As written: a value that comes from the environment may be a secret, and it stays ${oc.env:NAME} here.
    written: dict[str, Any] = OmegaConf.to_container(experiment.config, resolve=False)  # type: ignore[assignment]
    flat: dict[str, bool | int | float | str] = {}
    for group in SHOWN:
        flat[group] = str(written["choices"].get(group, "own"))
        _flatten(group, written[group], flat)
    return flat


def identity(experiment: Experiment) -> dict[str, str]:
    """Every key that makes the experiment what it is, classes included, flat and as written: not its logging."""
    written: dict[str, Any] = OmegaConf.to_container(experiment.config, resolve=False)  # type: ignore[assignment]
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}", inner)
        else:
            found[prefix] = str(value)

    for group in GROUPS:
        if group not in ("choices", "tracking"):
            walk(group, written[group])
    return found


def _flatten(prefix: str, node: dict[str, Any], flat: dict[str, bool | int | float | str]) -> None:
    for name, value in node.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}.{name}", value, flat)
        elif name != "_target_" and value is not None:
            flat[f"{prefix}.{name}"] = value if isinstance(value, (bool, int, float, str)) else str(value)


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


def config_text(experiment: Experiment) -> str:
    """The composed configuration; interpolations stay as they are written, so no secret of the environment enters."""
    return OmegaConf.to_yaml(experiment.config)

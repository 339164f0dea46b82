"""What a trained run can do: be evaluated again, and predict. Everything needed is in its directory."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.binding import make
from dlrun.build import build_model, check, resolved, restore_task
from dlrun.config import load_config
from dlrun.data import Preprocess, restore_preprocess
from dlrun.data.columns import is_number
from dlrun.data.facts import Facts
from dlrun.errors import CheckpointError, ConfigError, DataError, StorageError, did_you_mean
from dlrun.session import PARTS, limit_parts, make_batches
from dlrun.tasks import Task
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Reporter
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.device import choose_device
from dlrun.training.evaluation import evaluate as evaluate_part
from dlrun.training.evaluation import evaluation_mode
from dlrun.training.precision import Precision
from dlrun.training.signals import StopFlag

CHUNK = 500


@dataclass
class Trained:
    """The best network of a run with what belongs to it."""

    model: nn.Module
    task: Task
    facts: Facts
    preprocess: Preprocess
    precision: Precision
    device: torch.device
    state: dict[str, Any]


@dataclass
class Predictions:
    """One row per example, and the CSV file they were written to."""

    rows: list[dict[str, object]]
    path: Path


def restore(path: Path, trusted: Sequence[str] = ()) -> Trained:
    """The best network of a run (the newest where nothing was held out), from its directory alone.

    Raises:
        CheckpointError: there is no good checkpoint, or it does not fit the run's configuration.
    """
    run = RunDirectory.open(path)
    config = load_config(run.config)
    checkpoints = Checkpoints(run.checkpoints)
    state = checkpoints.best()
    if state is None:
        newest = checkpoints.newest()
        if newest is None:
            raise CheckpointError(f"{path} has no checkpoint yet; train it first: dlrun resume {path}")
        state = newest[0]
    # The data's own node is not needed: a path that came from the environment may be gone.
    node = resolved(config, ("choices", "task", "loss", "model", "activation", "precision", "trainer"))
    facts = _facts(state["facts"])
    task = restore_task(node, facts, trusted)
    task.restore(state["task"])
    device = choose_device(node["trainer"]["device"])
    model = build_model(node, facts, task.out_features(), trusted)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint of {path} does not fit the model of its config.yaml: {why}") from error
    precision: Precision = make(node["precision"], "precision", {}, trusted)
    precision.prepare()
    return Trained(model.to(device), task, facts, restore_preprocess(state["preprocess"]), precision, device, state)


def evaluate(path: Path, *, split: str = "test", reporter: Reporter, trusted: Sequence[str] = ()) -> dict[str, float]:
    """Metrics of a run's best network on a part of its data, beside the naive baseline.

    Raises:
        ConfigError: there is no such part, or it is empty.
        DataError: the data is not what the run was trained on.
    """
    if split not in PARTS:
        raise ConfigError(f"--split {split}: there is no such part{did_you_mean(split, PARTS)}")
    trained = restore(path, trusted)
    experiment = check(load_config(RunDirectory.open(path).config), trusted)
    splits = experiment.data.load()
    if splits.fingerprint != trained.state["fingerprint"]:
        raise DataError(f"the data '{trained.facts.name}' is not what {path} was trained on: its fingerprint differs")
    experiment.task.restore(trained.state["task"])
    batches = make_batches(experiment, limit_parts(splits, experiment.settings.limit), split)
    if batches is None:
        raise ConfigError(f"--split {split}: the data '{trained.facts.name}' has no {split} part")
    step = int(trained.state["step"])
    found = evaluate_part(
        trained.model, trained.task, batches, trained.precision.autocast(trained.device),
        split=split, step=step, epoch=0.0, stop=StopFlag(),
    )  # fmt: skip
    metrics = {f"{split}/{name}": value for name, value in found.metrics.items()}
    baseline = {f"{split}/{name}": value for name, value in found.baseline.items()}
    facts = {"examples": f"{len(found.targets):,}", "step of the network": f"{step:,}"}
    reporter.closing(f"The best network on the {split} part", metrics, baseline, path, facts)
    return metrics


def predict(
    path: Path,
    inputs: list[Path],
    *,
    output: Path | None = None,
    reporter: Reporter,
    trusted: Sequence[str] = (),
) -> Predictions:
    """Predict every example of the given files with a run's best network and write a CSV.

    Raises:
        DataError: a file that cannot be read as the run's kind of data.
    """
    if not inputs:
        raise ConfigError("predict needs at least one file: dlrun predict RUN FILE...")
    trained = restore(path, trusted)
    rows = [row for file in inputs for row in _rows(trained, file, many=len(inputs) > 1)]
    target = output or RunDirectory.open(path).predictions / f"{inputs[0].stem}.csv"
    _write_csv(target, rows)
    return Predictions(rows, target)


def _rows(trained: Trained, file: Path, many: bool) -> Iterator[dict[str, object]]:
    raw, names = trained.preprocess.read(file)
    start = 0
    with evaluation_mode(trained.model):
        for chunk in raw.split(CHUNK):
            with trained.precision.autocast(trained.device):
                outputs = trained.model(trained.preprocess(chunk.to(trained.device))).float()
            found = {name: tensor.cpu() for name, tensor in trained.task.predict(outputs).items()}
            for i in range(len(chunk)):
                where: dict[str, object] = {"file": file.name} if many else {}
                yield where | {"input": names[start + i]} | _answer(trained.facts, found, i)
            start += len(chunk)


def _answer(facts: Facts, found: dict[str, Tensor], i: int) -> dict[str, object]:
    """A prediction in the data's own words."""
    if facts.classes:
        label = facts.classes[int(found["labels"][i])]
        shares = found["probabilities"][i].tolist()
        return {"prediction": label} | {
            f"p({name})": round(p, 6) for name, p in zip(facts.classes, shares, strict=True)
        }
    return dict(zip(facts.targets, found["values"][i].tolist(), strict=True))


def _write_csv(path: Path, rows: Iterable[dict[str, object]]) -> None:
    rows = list(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([_harmless(name) for name in (rows[0] if rows else ["input"])])
            writer.writerows([_harmless(value) for value in row.values()] for row in rows)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _harmless(value: object) -> object:
    """A cell that a spreadsheet would run as a formula starts with a quote."""
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r") or is_number(value):
        return value
    return f"'{value}"


def _facts(stored: dict[str, Any]) -> Facts:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Facts(**values)

"""What a trained run is: its best network with all that belongs to it, and how good it is. ``predict`` asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.binding import make
from dlrun.build import build_model, check, make_task, resolved
from dlrun.config import load_config
from dlrun.data import Preprocess, restore_preprocess
from dlrun.data.facts import Facts
from dlrun.errors import CheckpointError, ConfigError, DataError, did_you_mean
from dlrun.feature_classifier import provide_classifier
from dlrun.loading import PARTS, all_targets, limit_parts, make_batches
from dlrun.tasks import Task
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Reporter
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.device import choose_device
from dlrun.training.evaluation import evaluate as evaluate_part
from dlrun.training.precision import Precision
from dlrun.training.signals import StopFlag


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


def restore(path: Path, trusted: Sequence[str] = ()) -> Trained:
    """The best network of a run (the newest where nothing was held out), from its directory alone.

    Raises:
        CheckpointError: there is no good checkpoint, or it does not fit the run's configuration.
    """
    run = RunDirectory.open(path)
    config = load_config(run.config)
    state = Checkpoints(run.checkpoints).network()
    if state is None:
        raise CheckpointError(f"{path} has no checkpoint yet; train it first: dlrun resume {path}")
    # The data's own node is not needed: a path that came from the environment may be gone.
    node = resolved(config, ("choices", "task", "loss", "model", "activation", "precision", "trainer"))
    facts = _facts(state["facts"])
    task = make_task(node, facts, trusted)[1]
    task.restore(state["task"])
    device = choose_device(node["trainer"]["device"])
    model = build_model(node, facts, task, trusted)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint of {path} does not fit the model of its config.yaml: {why}") from error
    with torch.no_grad():  # the newest state, where nothing was held out, has the averaged weights apart
        for weight, averaged in zip(model.parameters(), state.get("average", {}).get("weights", ()), strict=False):
            weight.copy_(averaged)
    precision: Precision = make(node["precision"], "precision", {}, trusted)
    precision.prepare()
    return Trained(model.to(device), task, facts, restore_preprocess(state["preprocess"]), precision, device, state)


def evaluate(
    path: Path, *, split: str | None = None, reporter: Reporter, trusted: Sequence[str] = ()
) -> dict[str, float]:
    """Metrics of a run's best network on a part of its data, beside the naive baseline.

    Without ``split`` that is the test part, or the validation part where there is none to test on.

    Raises:
        ConfigError: there is no such part, or it is empty.
        DataError: the data is not what the run was trained on.
    """
    if split is not None and split not in PARTS:
        raise ConfigError(f"--split {split}: there is no such part{did_you_mean(split, PARTS)}")
    trained = restore(path, trusted)
    config = load_config(RunDirectory.open(path).config)
    config.trainer.devices = 1  # whatever it was trained on
    experiment = check(config, trusted)
    splits = experiment.data.load()
    if splits.fingerprint != trained.state["fingerprint"]:
        raise DataError(f"the data '{trained.facts.name}' is not what {path} was trained on: its fingerprint differs")
    provide_classifier(experiment, RunDirectory.open(path), reporter, StopFlag(), may_train=False)
    splits = limit_parts(splits, experiment.settings.limit)
    split = split or ("test" if splits.facts.sizes.get("test") else "val")
    train, batches = (make_batches(experiment, splits, part) for part in ("train", split))
    assert train is not None, "a data set always has a training part"
    experiment.task.fit(all_targets(splits.train), train.in_order)
    experiment.task.restore(trained.state["task"])
    if batches is None:
        raise ConfigError(f"--split {split}: the data '{trained.facts.name}' has no {split} part")
    step = int(trained.state["step"])
    found = evaluate_part(
        trained.model, experiment.task, batches, trained.precision.autocast(trained.device),
        split=split, step=step, epoch=0.0, stop=StopFlag(), viewed=experiment.viewed,
    )  # fmt: skip
    metrics = {f"{split}/{name}": value for name, value in found.metrics.items()}
    baseline = {f"{split}/{name}": value for name, value in found.baseline.items()}
    facts = {"examples": f"{batches.size:,}", "step of the network": f"{step:,}"}
    reporter.closing(f"The best network on the {split} part", metrics, baseline, path, facts)
    return metrics


def _facts(stored: dict[str, Any]) -> Facts:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Facts(**values)

"""From a composed config to a checked experiment, before any data is read; then to its model and optimizer.

The check costs no data: the network is built on the CPU, run once on two made-up examples against the task and the
loss, and a wrong pairing is refused with the command that would work. (The ``meta`` device would need no memory, but
its first operation imports torch._dynamo for a second, and a network that reads a value cannot run there.)
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from dlrun.algorithms import Algorithm
from dlrun.algorithms.accumulation import Accumulation
from dlrun.allowlist import locate
from dlrun.binding import Node, bound, make
from dlrun.data import Data
from dlrun.data.facts import Facts
from dlrun.engines import Engine
from dlrun.errors import ConfigError, did_you_mean
from dlrun.explain import explain
from dlrun.losses import Loss
from dlrun.many_devices import check_devices, settle_engine, wanted_layout
from dlrun.models.recurrent import Stateful
from dlrun.models.summary import Row
from dlrun.pairing import check_algorithm, check_engine, check_held_out, check_network, check_optimizer, check_tracking
from dlrun.schedules import Schedule
from dlrun.tasks import Task
from dlrun.training.device import choose_device
from dlrun.training.evaluation import Viewed, as_it_is
from dlrun.training.layout import UNPACKABLE, laid_out, lies_channels_last
from dlrun.training.lean import without_compiler
from dlrun.training.precision import Precision
from dlrun.training.settings import Settings, read_settings
from dlrun.training.updater import Clip, ClipByNorm, ClipByValue, Updater

AUTO_TASK = {
    "classification": "dlrun.tasks.classification.Classification",
    "regression": "dlrun.tasks.regression.Regression",
    "language_modelling": "dlrun.tasks.language_modelling.LanguageModelling",
    "forecasting": "dlrun.tasks.forecasting.Forecasting",
    "super_resolution": "dlrun.tasks.super_resolution.SuperResolution",
}


@dataclass
class Experiment:
    """A checked configuration: everything chosen, nothing heavy built."""

    config: DictConfig
    node: Node
    trusted: tuple[str, ...]
    settings: Settings
    facts: Facts
    data: Data
    loss: Loss | None
    task: Task
    schedule: Schedule
    precision: Precision
    engine: Engine
    device: torch.device
    batch_size: int
    full_batch: bool
    consecutive: bool
    choices: list[tuple[str, str, str]]
    layers: list[Row]
    channels_last: bool

    def model(self) -> nn.Module:
        """The network, on the CPU (or the device of the surrounding context), freshly initialised."""
        model = build_model(self.node, self.facts, self.task, self.trusted)
        return laid_out(model) if self.channels_last else model

    @property
    def viewed(self) -> Viewed:
        """The network as evaluation sees it: with its state carried on where batches continue one another."""
        return Stateful if self.consecutive else as_it_is

    def updater(self, model: nn.Module) -> Updater:
        """The optimizer of the model's parameters, with clipping and loss scaling around it."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        with without_compiler():
            optimizer = make(self.node["optimizer"], "optimizer", {"params": trainable}, self.trusted)
        clips: list[Clip] = []
        if self.settings.clip_norm is not None:
            clips.append(ClipByNorm(self.settings.clip_norm))
        if self.settings.clip_value is not None:
            clips.append(ClipByValue(self.settings.clip_value))
        return Updater(optimizer, self.precision.scaler(self.device), clips)

    def algorithm(self, model: nn.Module) -> Algorithm:
        """The algorithm that changes the model's parameters, with its optimizers."""
        target = locate(self.node["algorithm"]["_target_"], "algorithm", self.trusted)
        runtime: dict[str, Any] = {"model": model, "task": self.task, "loss": self.loss, "precision": self.precision}
        runtime["updater_of"] = self.updater
        if "updater" in inspect.signature(target).parameters:
            runtime["updater"] = self.updater(model)
        algorithm: Any = make(self.node["algorithm"], "algorithm", runtime, self.trusted)
        pieces = self.settings.accumulate
        if pieces > 1:
            algorithm = Accumulation(algorithm, runtime["updater"], pieces)
        return algorithm  # type: ignore[no-any-return]


class Found:
    """What earlier checks found out, so that a thousand points of a sweep do not find it out again.

    The data set and its facts follow from the ``data`` group alone, and whether the network goes with its task and
    loss from the groups in ``DECIDING``: where these are equal, so is the answer. An error is never remembered.
    """

    def __init__(self) -> None:
        self._data: dict[str, tuple[Data, Facts]] = {}
        self._networks: dict[str, list[Row]] = {}

    def data(self, node: Node, pixels: str, trusted: tuple[str, ...]) -> tuple[Data, Facts]:
        """The data set of the config and its facts."""
        key = repr((node["data"], pixels, trusted))
        if key not in self._data:
            data: Data = make(node["data"], "data", {"wanted_pixels": pixels}, trusted)
            self._data[key] = (data, data.facts())
        return self._data[key]

    def network(self, node: Node, trusted: tuple[str, ...], check: Callable[[], list[Row]]) -> list[Row]:
        """Check the network, unless an equal one has passed; its layers."""
        key = repr(({group: node[group] for group in DECIDING}, trusted))
        if key not in self._networks:
            self._networks[key] = check()
        return self._networks[key]


DECIDING = ("choices", "data", "task", "algorithm", "model", "activation", "loss", "precision")


def check(config: DictConfig, trusted: Sequence[str] = (), found: Found | None = None) -> Experiment:
    """Check a whole configuration without reading data that is known by name.

    Args:
        config: as composed.
        trusted: packages that may be named in ``_target_``.
        found: what earlier checks found out; gets what this one does.

    Raises:
        ConfigError: a key, type, range or pairing that cannot be used.
        RefusedError: a ``_target_`` outside the allow-list.
        DataError: a table or folder that has to be looked at cannot be read.
    """
    node = resolved(config, GROUPS)
    trusted, found = tuple(trusted), found or Found()
    settings = read_settings(node["trainer"])
    settle_engine(node)
    check_tracking(node["tracking"])
    device = choose_device(settings.device)
    precision: Precision = make(node["precision"], "precision", {}, trusted)
    schedule: Schedule = make(node["schedule"], "schedule", {}, trusted)
    algorithm = check_algorithm(node, settings, precision, trusted)
    full_batch = check_optimizer(node, settings, trusted)
    data, facts = found.data(node, _pixels(node, trusted), trusted)
    loss, task = make_task(node, facts, trusted)
    parts = {"loss": loss, "precision": precision, "trusted": trusted}
    build = partial(build_model, node, facts, task, trusted)
    layers = found.network(node, trusted, lambda: check_network(node, task, algorithm, build, facts, parts))
    batch_size = settings.batch(limited(facts.sizes["train"], settings.limit["train"]), full_batch)
    engine: Engine = make(node["engine"], "engine", {"batch_size": batch_size}, trusted)
    check_engine(node, engine, algorithm, device)
    name, inputs = str(node["choices"].get("model")), task.example()[0]
    precision = precision.settled(node["precision"], device, name, build, inputs, batch_size)
    layout = lies_channels_last(wanted_layout(node, settings), build(), inputs, device)
    check_devices(node, settings, device, algorithm, task, precision, batch_size)
    goal = settings.goal(task.monitor, task.metric_names())
    check_held_out(node, settings, facts)
    model = locate(node["model"]["_target_"], "model", trusted)
    unpackable = algorithm.unpackable or getattr(model, "unpackable", "") or (UNPACKABLE if layout else "")
    takes_activation = "activation" in inspect.signature(model).parameters
    chosen = getattr(engine, "choice", lambda *_: None)(algorithm, device)
    choices = explain(
        node, facts, task, loss, device, precision, goal.metric, batch_size, unpackable, takes_activation, chosen
    )
    return Experiment(
        config, node, trusted, settings, facts, data, loss, task, schedule, precision, engine, device, batch_size,
        full_batch, algorithm.consecutive, choices, layers, layout,
    )  # fmt: skip


GROUPS = (
    "choices", "data", "task", "algorithm", "model", "activation", "loss", "optimizer", "schedule", "trainer",
    "precision", "engine", "tracking",
)  # fmt: skip


def resolved(config: DictConfig, groups: Sequence[str]) -> Node:
    """These groups of the configuration as plain values, with their interpolations looked up.

    Raises:
        ConfigError: a group is missing, or a value cannot be looked up.
    """
    others = [str(name) for name in config if name not in GROUPS]
    written = OmegaConf.to_yaml(config) if others else ""
    for key in others:
        if not re.search(rf"\$\{{{re.escape(key)}[.}}\[]", written):
            raise ConfigError(f"{key}: there is no such group, and nothing refers to it{did_you_mean(key, GROUPS)}")
    node: Node = {}
    for group in groups:
        if not isinstance(config.get(group), DictConfig):
            raise ConfigError(f"the configuration has no '{group}'; choose one: dlrun list {group}")
        try:
            node[group] = OmegaConf.to_container(config[group], resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"'{group}' cannot be resolved: {str(error).splitlines()[0]}") from error
    return node


def build_model(node: Node, facts: Facts, task: Task, trusted: Sequence[str]) -> nn.Module:
    """The network for data of these facts: sizes of the input and output layer are never typed by hand."""
    make_activation, arguments = bound(node["activation"], "activation", {}, trusted)
    shape = task.out_shape()
    units = shape[-1] if task.per_step else math.prod(shape)
    runtime = {
        "in_shape": facts.input_shape,
        "in_features": math.prod(facts.input_shape),
        "in_channels": facts.input_shape[0],
        "out_shape": shape,
        "out_features": units,
        "num_classes": units,
        "per_step": task.per_step,
        "activation": lambda: make_activation(**arguments),
        "vocabulary": facts.vocabulary,
        "padding": facts.padding,
        "target_shape": facts.target_shape,
        "scale": facts.scale,
    }
    model = make(node["model"], "model", runtime, trusted)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model._target_={node['model']['_target_']} gives no torch.nn.Module")
    return model


def make_task(node: Node, facts: Facts, trusted: Sequence[str]) -> tuple[Loss | None, Task]:
    """The loss (None where the task has none to choose) and the task, for data of these facts."""
    target = node["task"]["_target_"]
    task_node = node["task"] | {"_target_": AUTO_TASK[facts.task] if target == "auto" else target}
    usual: str = locate(task_node["_target_"], "task", trusted).usual_loss  # type: ignore[attr-defined]
    loss_node = node["loss"]
    if loss_node["_target_"] == "auto" and usual:
        two = facts.num_classes == 2 and task_node.get("outputs", "auto") != 2
        usual = "BinaryCrossEntropy" if usual == "CrossEntropy" and two else usual
        loss_node = {"_target_": usual if "." in usual else f"dlrun.losses.{usual}"}
    loss: Loss | None = None
    if usual:
        loss = make(loss_node, "loss", {}, trusted)
    elif loss_node["_target_"] != "auto":
        raise ConfigError(
            f"loss: task={node['choices'].get('task', 'this')} has no loss to choose; leave it at loss=auto"
            f"{' (task.hinge=hinge or squared)' if 'hinge' in task_node else ''}"
        )
    task: Task = make(task_node, "task", {"loss": loss, "facts": facts}, trusted)
    return loss, task


def _pixels(node: Node, trusted: Sequence[str]) -> str:
    """The range in which the model, or else the task, wants images."""
    for group in ("model", "task"):
        target = node[group]["_target_"]
        wanted = None if target == "auto" else getattr(locate(target, group, trusted), "pixels", None)
        if wanted is not None:
            return str(wanted)
    return "standard"


def limited(examples: int, limit: float | None) -> int:
    """Examples left of a part under ``trainer.limit``: a share up to 1, above it that many."""
    if limit is None:
        return examples
    return max(1, round(limit * examples)) if limit <= 1 else min(int(limit), examples)

"""From a composed config to a checked experiment, before any data is read; then to its model and optimizer.

The check costs no data: the network is built on the CPU, run once on two made-up examples against the task and the
loss, and a wrong pairing is refused with the command that would work. (The ``meta`` device would need no memory, but
its first operation imports torch._dynamo for a second, and a network that reads a value cannot run there.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from dlrun.algorithms import Algorithm
from dlrun.algorithms.accumulation import Accumulation
from dlrun.binding import Node, bound, make
from dlrun.data import Data
from dlrun.data.facts import Facts
from dlrun.engines import Engine
from dlrun.errors import ConfigError, DlrunError, did_you_mean
from dlrun.explain import explain
from dlrun.losses import Loss
from dlrun.schedules import Schedule
from dlrun.tasks import Task
from dlrun.training.device import choose_device
from dlrun.training.precision import Precision
from dlrun.training.settings import Settings, read_settings
from dlrun.training.updater import Updater, clip_by_norm, clip_by_value

AUTO_TASK = {
    "classification": "dlrun.tasks.classification.Classification",
    "regression": "dlrun.tasks.regression.Regression",
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
    loss: Loss
    task: Task
    schedule: Schedule
    precision: Precision
    engine: Engine
    device: torch.device
    batch_size: int
    full_batch: bool
    choices: list[tuple[str, str, str]]

    def model(self) -> nn.Module:
        """The network, on the CPU (or the device of the surrounding context), freshly initialised."""
        return build_model(self.node, self.facts, self.task.out_features(), self.trusted)

    def updater(self, model: nn.Module) -> Updater:
        """The optimizer of the model's parameters, with clipping and loss scaling around it."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = make(self.node["optimizer"], "optimizer", {"params": trainable}, self.trusted)
        clips = []
        if self.settings.clip_norm is not None:
            clips.append(clip_by_norm(self.settings.clip_norm))
        if self.settings.clip_value is not None:
            clips.append(clip_by_value(self.settings.clip_value))
        return Updater(optimizer, self.precision.scaler(self.device), clips)

    def algorithm(self, model: nn.Module, updater: Updater) -> Algorithm:
        """The algorithm that changes the model's parameters."""
        runtime = {"model": model, "task": self.task, "updater": updater, "precision": self.precision}
        algorithm: Algorithm = make(self.node["algorithm"], "algorithm", runtime, self.trusted)
        pieces = self.settings.accumulate
        return algorithm if pieces == 1 else Accumulation(algorithm, updater, pieces)


def check(config: DictConfig, trusted: Sequence[str] = ()) -> Experiment:
    """Check a whole configuration without reading data that is known by name.

    Raises:
        ConfigError: a key, type, range or pairing that cannot be used.
        RefusedError: a ``_target_`` outside the allow-list.
        DataError: a table or folder that has to be looked at cannot be read.
    """
    node = resolved(config, GROUPS)
    trusted = tuple(trusted)
    settings = read_settings(node["trainer"])
    _check_tracking(node["tracking"])
    device = choose_device(settings.device)
    precision: Precision = make(node["precision"], "precision", {}, trusted)
    engine: Engine = make(node["engine"], "engine", {}, trusted)
    schedule: Schedule = make(node["schedule"], "schedule", {}, trusted)
    data: Data = make(node["data"], "data", {}, trusted)
    _check_algorithm(node, settings, precision, trusted)
    full_batch = _check_optimizer(node, settings, trusted)
    facts = data.facts()
    loss, task = _task(node, facts, trusted)
    _check_network(node, facts, task, trusted)
    batch_size = settings.batch(limited(facts.sizes["train"], settings.limit["train"]), full_batch)
    goal = settings.goal(task.monitor, task.metric_names())
    _check_held_out(node, settings, facts)
    choices = explain(node, facts, task, loss, device, goal.metric, batch_size)
    return Experiment(
        config, node, trusted, settings, facts, data, loss, task, schedule, precision, engine, device, batch_size,
        full_batch, choices,
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
    written = OmegaConf.to_yaml(config)
    for key in [str(name) for name in config]:
        if key not in GROUPS and not re.search(rf"\$\{{{re.escape(key)}[.}}\[]", written):
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


def build_model(node: Node, facts: Facts, out_features: int, trusted: Sequence[str]) -> nn.Module:
    """The network for data of these facts: sizes of the input and output layer are never typed by hand."""
    make_activation, arguments = bound(node["activation"], "activation", {}, trusted)
    runtime = {
        "in_shape": facts.input_shape,
        "in_features": _product(facts.input_shape),
        "in_channels": facts.input_shape[0],
        "out_features": out_features,
        "num_classes": out_features,
        "activation": lambda: make_activation(**arguments),
    }
    model = make(node["model"], "model", runtime, trusted)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model._target_={node['model']['_target_']} gives no torch.nn.Module")
    return model


def restore_task(node: Node, facts: Facts, trusted: Sequence[str]) -> Task:
    """The task of a run, from its configuration and the facts in its checkpoint."""
    return _task(node, facts, trusted)[1]


def _task(node: Node, facts: Facts, trusted: Sequence[str]) -> tuple[Loss, Task]:
    target = node["task"]["_target_"]
    task_node = node["task"] | {"_target_": AUTO_TASK[facts.task] if target == "auto" else target}
    name = next((name for name, own in AUTO_TASK.items() if own == task_node["_target_"]), facts.task)
    loss_node = node["loss"]
    if loss_node["_target_"] == "auto":
        two = facts.num_classes == 2 and task_node.get("outputs", "auto") != 2
        loss_node = {"_target_": f"dlrun.losses.{_usual_loss(name, two)}"}
    loss: Loss = make(loss_node, "loss", {}, trusted)
    task: Task = make(task_node, "task", {"loss": loss, "facts": facts}, trusted)
    return loss, task


def _usual_loss(task: str, two_classes: bool) -> str:
    if task == "regression":
        return "MeanSquaredError"
    return "BinaryCrossEntropy" if two_classes else "CrossEntropy"


def _check_optimizer(node: Node, settings: Settings, trusted: Sequence[str]) -> bool:
    """Bind the optimizer's keys and ranges; returns whether it wants the whole training part in each step."""
    target, arguments = bound(node["optimizer"], "optimizer", {"params": []}, trusted)
    make_arguments = {name: value for name, value in arguments.items() if name != "params"}
    try:
        target([], **make_arguments)  # torch checks the ranges first, then finds no parameters
    except (TypeError, ValueError) as error:
        if "empty parameter list" not in str(error):
            raise ConfigError(f"optimizer: {str(error).splitlines()[0]}") from error
    always = bool(getattr(target, "full_batch", False))
    if always and settings.batch_size != "auto":
        raise ConfigError(
            f"trainer.batch_size={settings.batch_size}: gradient descent takes the whole training part in each step; "
            "use optimizer=sgd for mini-batches"
        )
    return always or target is torch.optim.LBFGS


def _check_algorithm(node: Node, settings: Settings, precision: Precision, trusted: Sequence[str]) -> None:
    parts = dict.fromkeys(("model", "task", "updater", "precision"))
    algorithm, _ = bound(node["algorithm"], "algorithm", parts, trusted)
    name, optimizer = node["choices"].get("algorithm"), node["choices"].get("optimizer")
    if settings.accumulate > 1 and not getattr(algorithm, "in_pieces", False):
        raise ConfigError(
            f"trainer.accumulate={settings.accumulate} cannot go with algorithm={name} ({optimizer}); leave it at 1"
        )
    if precision.dtype == "float16" and not getattr(algorithm, "scaled_loss", False):
        raise ConfigError(f"precision=fp16 cannot go with algorithm={name} ({optimizer}); use precision=bf16 or fp32")


def _check_network(node: Node, facts: Facts, task: Task, trusted: Sequence[str]) -> None:
    """Run the network once on two made-up examples, and the loss once on what comes out."""
    units = task.out_features()
    name = node["choices"].get("model", node["model"].get("_target_"))
    try:
        model = build_model(node, facts, units, trusted)
        with torch.no_grad():
            outputs = model(torch.zeros(2, *facts.input_shape))
    except DlrunError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"model={name} cannot take inputs of shape {facts.input_shape} from data '{facts.name}': {reason}"
        ) from error
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model={name} has no parameters to train")
    if not isinstance(outputs, Tensor) or outputs.shape != (2, units):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(f"model={name} gives {got} for a batch of 2, but the task needs (2, {units})")
    targets = torch.zeros(2, dtype=torch.int64) if facts.num_classes else torch.zeros(2, facts.num_targets)
    if facts.num_classes:
        task.fit(torch.arange(facts.num_classes))
    try:
        task.outputs_loss(torch.zeros(2, units), targets)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"loss: cannot compare {units} outputs with '{facts.name}': {str(error).splitlines()[0]}"
        ) from error


def _check_held_out(node: Node, settings: Settings, facts: Facts) -> None:
    """Refuse what looks at the validation part when nothing is held out."""
    if facts.sizes.get("val"):
        return
    wishes = {
        "trainer.early_stop": settings.early_stop is not None,
        "trainer.monitor": settings.monitor != "auto",
        "schedule=plateau": node["schedule"]["_target_"] == "dlrun.schedules.Plateau",
    }
    for name, wished in wishes.items():
        if wished:
            raise ConfigError(f"{name} needs a validation part, but nothing is held out; set data.val=0.1")


def _check_tracking(node: Node) -> None:
    for key in ("every", "share", "tensorboard"):
        if key not in node:
            raise ConfigError(f"tracking.{key} is missing from the configuration")
    every, share = node["every"], node["share"]
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ConfigError(f"tracking.every={every}: takes a whole number of steps of at least 1")
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ConfigError(f"tracking.share={share}: takes a share of the time from 0 to 1")


def limited(examples: int, limit: float | None) -> int:
    """Examples left of a part under ``trainer.limit``: a share up to 1, above it that many."""
    if limit is None:
        return examples
    return max(1, round(limit * examples)) if limit <= 1 else min(int(limit), examples)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product

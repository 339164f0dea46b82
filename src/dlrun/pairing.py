"""What cannot go together is refused here, before any data is read, with the command that would work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.binding import Node, bound, make
from dlrun.data.facts import Facts
from dlrun.engines import Engine
from dlrun.errors import ConfigError, DlrunError
from dlrun.models.summary import Row, summarize
from dlrun.tasks import Task
from dlrun.training.precision import Precision
from dlrun.training.settings import Settings
from dlrun.training.updater import Updater

# What gives a task or an algorithm the attributes it asks of a model.
GIVERS = {
    "noise": "model=gan or model=dcgan",
    "generator": "model=gan or model=dcgan",
    "posterior": "model=vae",
    "unroll": "model=lstm, model=gru or model=rnn",
    "stack": "model=dbm, model=dbn or model=autoencoder",
    "view": "model=rbm",
    "encode": "model=autoencoder, model=conv_autoencoder or model=denoising",
    "code_features": "model=autoencoder, model=conv_autoencoder or model=denoising",
    "squared_norm": "model=svm or model=svm_gaussian",
}
TOKENS = "texts are tokens: use model=lstm, gru, rnn or transformer_encoder"
OWN_ALGORITHM = {"generation": "adversarial", "density": "contrastive_divergence"}


def check_algorithm(node: Node, settings: Settings, precision: Precision, trusted: Sequence[str]) -> Any:
    """Bind the algorithm's keys; returns its class. Raises ConfigError for what it cannot go with."""
    parts = dict.fromkeys(("model", "task", "loss", "updater", "updater_of", "precision"))
    algorithm, _ = bound(node["algorithm"], "algorithm", parts, trusted)
    name, optimizer = node["choices"].get("algorithm"), node["choices"].get("optimizer")
    if settings.accumulate > 1 and not getattr(algorithm, "in_pieces", False):
        raise ConfigError(
            f"trainer.accumulate={settings.accumulate} cannot go with algorithm={name} ({optimizer}); leave it at 1"
        )
    if precision.dtype == "float16" and not getattr(algorithm, "scaled_loss", False):
        raise ConfigError(f"precision=fp16 cannot go with algorithm={name} ({optimizer}); use precision=bf16 or fp32")
    if getattr(algorithm, "pretrains", False) and (
        settings.early_stop is not None or node["schedule"]["_target_"] == "dlrun.schedules.Plateau"
    ):
        raise ConfigError(
            f"algorithm={name} trains its layers first, which no evaluation shows: leave trainer.early_stop=null and "
            "take another schedule than plateau"
        )
    return algorithm


def check_engine(node: Node, engine: Engine, algorithm: Any, device: torch.device) -> None:
    """Refuse an engine that says why it cannot be used with this algorithm (its class) on this device."""
    refusal: Callable[[Any, torch.device], str] | None = getattr(engine, "refusal", None)
    why = refusal(algorithm, device) if refusal is not None else ""
    if why:
        picked = node["choices"]
        raise ConfigError(f"engine={picked.get('engine')} with algorithm={picked.get('algorithm')}: it {why}")


def check_optimizer(node: Node, settings: Settings, trusted: Sequence[str]) -> bool:
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
    if target is torch.optim.LBFGS and node["choices"].get("algorithm") != "closure":
        raise ConfigError(f"optimizer=lbfgs needs algorithm=closure, not {node['choices'].get('algorithm')}")
    return always or target is torch.optim.LBFGS


def check_network(
    node: Node, task: Task, algorithm: Any, build: Callable[[], nn.Module], facts: Facts, parts: dict[str, Any]
) -> list[Row]:
    """Run the network once on two made-up examples, the loss once on what comes out, and build the algorithm.

    Returns the network's layers. ``parts`` are the loss, the precision and the trusted packages.
    """
    name = node["choices"].get("model", node["model"].get("_target_"))
    inputs, targets = task.example()
    try:
        model = build()
        _check_requirements(node, model, task, algorithm, str(name))
        with torch.no_grad():
            outputs = model(inputs)
    except DlrunError:
        raise
    except Exception as error:
        why = TOKENS if facts.vocabulary else _reason(error)
        raise ConfigError(
            f"model={name} cannot take inputs of shape {facts.input_shape} from data '{facts.name}': {why}"
        ) from error
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model={name} has no parameters to train")
    wanted = (2, *task.out_shape())
    if not isinstance(outputs, Tensor) or len(outputs) != 2 or outputs.numel() != math.prod(wanted):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(f"model={name} gives {got} for a batch of 2, but the task needs {wanted}")
    if facts.scale > 1:
        _check_any_size(model, str(name), facts)
    _check_loss(node, task, algorithm, model, (inputs, targets), facts)
    trusted = parts.pop("trusted")
    make(node["algorithm"], "algorithm", parts | _stand_ins(model) | {"model": model, "task": task}, trusted)
    return summarize(model, facts.input_shape, inputs.dtype)


def _check_any_size(model: nn.Module, name: str, facts: Facts) -> None:
    """Whole pictures to enlarge differ in size, so a network of one size cannot do."""
    channels, height, width = facts.input_shape[0], facts.input_shape[1] + 3, facts.input_shape[2] + 5
    try:
        with torch.no_grad():
            shape = tuple(model(torch.zeros(1, channels, height, width)).shape)
    except (RuntimeError, ValueError, IndexError):
        shape = ()
    if shape != (1, channels, height * facts.scale, width * facts.scale):
        raise ConfigError(
            f"data={facts.name} has pictures of any size, which model={name} cannot take: use model=srcnn or espcn"
        )


def _stand_ins(model: nn.Module) -> dict[str, Any]:
    """Updaters without optimizers, whose first construction imports a compiler for half a second."""

    def updater_of(part: nn.Module) -> Updater:
        groups = [{"params": list(part.parameters()), "lr": 1.0}]
        optimizer: Any = SimpleNamespace(param_groups=groups, step=None)
        return Updater(optimizer, torch.amp.GradScaler("cpu", enabled=False))

    return {"updater_of": updater_of, "updater": updater_of(model)}


def _check_requirements(node: Node, model: nn.Module, task: Task, algorithm: Any, name: str) -> None:
    for who, asks in ((f"task={task.name}", task), (f"algorithm={node['choices'].get('algorithm')}", algorithm)):
        for attribute in getattr(asks, "requires", ()):
            if not hasattr(model, attribute):
                hint = f"; use {GIVERS[attribute]}" if attribute in GIVERS else ""
                raise ConfigError(f"{who} needs a model with '{attribute}', which model={name} has not{hint}")
    if getattr(algorithm, "consecutive", False) and task.name != "language_modelling":
        raise ConfigError(
            f"algorithm={node['choices'].get('algorithm')} carries its state through one long text, but this is "
            f"{task.name}: use algorithm=backpropagation, or data=text"
        )


def _check_loss(
    node: Node, task: Task, algorithm: Any, model: nn.Module, batch: tuple[Tensor, Tensor], facts: Facts
) -> None:
    """An algorithm that follows a loss needs a task that has one, and the other way round."""
    has_loss, follows = hasattr(task, "loss"), hasattr(algorithm, "forward")
    if has_loss != follows:
        works = OWN_ALGORITHM.get(task.name, "backpropagation")
        raise ConfigError(
            f"algorithm={node['choices'].get('algorithm')} cannot train task={task.name}: use algorithm={works}"
        )
    if not has_loss:
        return
    try:
        with torch.no_grad():
            task.loss(model, batch)  # type: ignore[attr-defined]
    except DlrunError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"loss: cannot compare the outputs {task.out_shape()} with '{facts.name}': {_reason(error)}"
        ) from error


def check_held_out(node: Node, settings: Settings, facts: Facts) -> None:
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


def check_tracking(node: Node) -> None:
    """Refuse tracking keys that are missing or out of range."""
    for key in ("every", "share", "tensorboard"):
        if key not in node:
            raise ConfigError(f"tracking.{key} is missing from the configuration")
    every, share = node["every"], node["share"]
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ConfigError(f"tracking.every={every}: takes a whole number of steps of at least 1")
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ConfigError(f"tracking.share={share}: takes a share of the time from 0 to 1")


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

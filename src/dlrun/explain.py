"""What was chosen for an experiment and why, in the order a reader thinks."""

from __future__ import annotations

import torch

from dlrun.binding import Node
from dlrun.data.facts import Facts
from dlrun.losses import Loss
from dlrun.tasks import Task
from dlrun.training.precision import Precision

OWN = ("-", "the model has its own, or none")


def explain(
    node: Node,
    facts: Facts,
    task: Task,
    loss: Loss | None,
    device: torch.device,
    precision: Precision,
    monitored: str,
    batch_size: int,
    unpackable: str,
    takes_activation: bool,
    engine: tuple[str, str] | None = None,
) -> list[tuple[str, str, str]]:
    """What was chosen and why, in the order a reader thinks; ``engine`` where the choice was not the user's alone."""
    picked = node["choices"]
    shape = "x".join(map(str, facts.input_shape))
    sizes = ", ".join(f"{n:,} {part}" for part, n in facts.sizes.items())
    output, reason = task.output_layer()
    return [
        ("data", facts.name, f"{sizes}; inputs {shape}"),
        ("task", task.name, "from the data" if picked.get("task") == "auto" else "as asked"),
        ("model", str(picked.get("model")), node["model"]["_target_"]),
        ("output layer", output, reason),
        ("activation", *((str(picked.get("activation")), "hidden layers") if takes_activation else OWN)),
        ("loss", *_loss(picked, loss)),
        ("algorithm", str(picked.get("algorithm")), f"does not pack: {unpackable}" if unpackable else "packs"),
        ("optimizer", str(picked.get("optimizer")), _settings_of(node["optimizer"])),
        ("schedule", str(picked.get("schedule")), _settings_of(node["schedule"])),
        ("batch", f"{batch_size:,}", "as asked" if node["trainer"]["batch_size"] != "auto" else "auto"),
        ("best by", *_best_by(node, facts, monitored)),
        ("precision", precision.dtype, precision.reason),
        ("engine", *(engine or (str(picked.get("engine")), "as asked"))),
        ("device", str(device), "as asked" if node["trainer"]["device"] != "auto" else "auto"),
    ]


def _loss(picked: dict[str, object], loss: Loss | None) -> tuple[str, str]:
    if loss is None:
        return "-", "the task has none to choose"
    return type(loss).__name__, "from the task" if picked.get("loss") == "auto" else "as asked"


def _best_by(node: Node, facts: Facts, monitored: str) -> tuple[str, str]:
    if not facts.sizes.get("val"):
        return "the last network", "nothing is held out"
    return f"val/{monitored}", "as asked" if node["trainer"]["monitor"] != "auto" else "from the task"


def _settings_of(node: Node) -> str:
    return ", ".join(f"{name} {value}" for name, value in node.items() if name != "_target_")

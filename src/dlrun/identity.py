"""What an experiment is, written out flat: for TensorBoard's hparams tab, for config.yaml, and to know it again."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from dlrun.build import GROUPS, Experiment

SHOWN = (
    "data",
    "task",
    "algorithm",
    "model",
    "activation",
    "loss",
    "optimizer",
    "schedule",
    "trainer",
    "precision",
    "engine",
)


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


def config_text(experiment: Experiment) -> str:
    """The composed configuration; interpolations stay as they are written, so no secret of the environment enters."""
    return OmegaConf.to_yaml(experiment.config)

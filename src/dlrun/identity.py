"""What an experiment is, written out flat: for TensorBoard's hparams tab, for config.yaml, and to know it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dlrun.build import GROUPS, Experiment
from dlrun.tracking.folders import has_record
from dlrun.tracking.provenance import source_digest

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

# Settings of the machine, which cannot change what is learnt (the kind of device is asked apart), and logging.
_WITHOUT_EFFECT = ("trainer.workers", "trainer.threads", "trainer.checkpoint_every", "trainer.device")


def _written(experiment: Experiment) -> dict[str, Any]:
    """The configuration as written, but for the number format: of ``auto`` stays what it came to on this machine."""
    written: dict[str, Any] = OmegaConf.to_container(experiment.config, resolve=False)  # type: ignore[assignment]
    if written["precision"].get("dtype") == "auto":
        written["precision"]["dtype"] = experiment.precision.dtype
    return written


def hyperparameters(experiment: Experiment) -> dict[str, bool | int | float | str]:
    """What was picked and every number of it, flat: ``model`` mlp, ``optimizer.lr`` 0.001."""
    # As written: a value that comes from the environment may be a secret, and it stays ${oc.env:NAME} here.
    written = _written(experiment)
    flat: dict[str, bool | int | float | str] = {}
    for group in SHOWN:
        flat[group] = str(written["choices"].get(group, "own"))
        _flatten(group, written[group], flat)
    return flat


def identity(experiment: Experiment) -> dict[str, str]:
    """Every key that makes the experiment what it is, classes included, flat and as written: not its logging."""
    written = _written(experiment)
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


def experiment_key(experiment: Experiment) -> str:
    """A digest that two experiments share when the same results are to be expected of them, given the same data.

    It is over every resolved value that can change results (one from the environment enters it and is stored nowhere),
    the source of dlrun and of the trusted packages that are used, torch's version, the kind of device, and the
    checkpoints of a run that a value names. The data are told by their fingerprint, apart.
    """
    values = dict(_leaves(experiment))
    used = {str(value).partition(".")[0] for key, value in values.items() if key.endswith("._target_")}
    trusted = sorted(used & {name.partition(".")[0] for name in experiment.trusted})
    parts = {
        "values": values,
        "source": [source_digest("dlrun", beside=False), *map(source_digest, trusted)],
        "runs": {value: stamp for value in values.values() if isinstance(value, str) and (stamp := _stamp(value))},
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _leaves(experiment: Experiment) -> Iterator[tuple[str, Any]]:
    """Every resolved value that can change results, by its dotted key."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from walk(f"{prefix}.{name}", inner)
        elif prefix not in _WITHOUT_EFFECT:
            yield prefix, value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)

    for group in GROUPS:
        if group not in ("choices", "tracking"):
            yield from walk(group, experiment.node[group])


def _stamp(value: str) -> list[tuple[str, int, int]]:
    """Name, size and time of each checkpoint, where a value is the directory of a run that this one starts from."""
    path = Path(os.path.expanduser(value))  # noqa: PTH111 - Path's own raises where there is no such user
    if not value or not has_record(path):
        return []
    files = sorted((path / "checkpoints").glob("*.ckpt"))
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _flatten(prefix: str, node: dict[str, Any], flat: dict[str, bool | int | float | str]) -> None:
    for name, value in node.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}.{name}", value, flat)
        elif name != "_target_" and value is not None:
            flat[f"{prefix}.{name}"] = value if isinstance(value, (bool, int, float, str)) else str(value)


def config_text(experiment: Experiment) -> str:
    """The composed configuration; interpolations stay as they are written, so no secret of the environment enters."""
    return OmegaConf.to_yaml(OmegaConf.create(_written(experiment)))

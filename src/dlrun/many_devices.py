"""Runs on several devices: what can go along is checked before their processes start, and what is to be known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dlrun.binding import Node
from dlrun.errors import ConfigError
from dlrun.tasks import Task
from dlrun.training.peers import Peers
from dlrun.training.precision import Precision
from dlrun.training.settings import Settings

if TYPE_CHECKING:
    from dlrun.build import Experiment

BECOME_DDP = ("auto", "eager")  # engines that leave the choice open: several devices decide it
DDP = {"_target_": "dlrun.engines.ddp.Ddp"}


def settle_engine(node: Node) -> None:
    """Make an open choice of the engine ``ddp`` where there are several devices.

    Raises:
        ConfigError: an engine that runs on one device.
    """
    devices, picked = node["trainer"].get("devices", 1), node["choices"].get("engine")
    target = str(node["engine"].get("_target_"))
    if devices == 1 or target.startswith(("dlrun.engines.ddp.", "dlrun.engines.fsdp.")):
        return
    if picked in BECOME_DDP:
        node["engine"], node["choices"]["engine"] = dict(DDP), "ddp"
        return
    raise ConfigError(f"engine={picked} runs on one device, not on trainer.devices={devices}; use engine=ddp or fsdp")


def check_devices(
    node: Node, settings: Settings, device: torch.device, algorithm: Any, task: Task, precision: Precision, batch: int
) -> None:
    """Refuse what cannot be done on several devices.

    Raises:
        ConfigError: names the key and what works.
    """
    devices = settings.devices
    if devices == 1:
        return
    wish, name = f"trainer.devices={devices}", node["choices"].get("algorithm")
    if device.type == "cuda":
        if device.index is not None:
            raise ConfigError(f"trainer.device={settings.device} is one device, and {wish}; use trainer.device=cuda")
        if devices > (there := torch.cuda.device_count()) and not _many_machines():
            raise ConfigError(f"{wish}: there are {there} GPUs here; use trainer.devices={there} or trainer.device=cpu")
    if node["optimizer"]["_target_"] == "torch.optim.LBFGS" or name == "closure":
        raise ConfigError(f"optimizer={node['choices'].get('optimizer')} looks at the loss several times in one step, "
                          f"which {wish} cannot do; use trainer.devices=1")  # fmt: skip
    if batch < devices:
        raise ConfigError(f"trainer.batch_size={batch} is less than {wish}: some would have no example; use at least "
                          f"trainer.batch_size={devices}")  # fmt: skip
    if str(node["engine"].get("_target_")).startswith("dlrun.engines.fsdp."):
        _check_fsdp(settings, algorithm, task, precision, name)


def _check_fsdp(settings: Settings, algorithm: Any, task: Task, precision: Precision, name: Any) -> None:
    asks = [*getattr(algorithm, "requires", ()), *getattr(task, "requires", ())]
    if not hasattr(algorithm, "forward") or getattr(algorithm, "pretrains", False):
        raise ConfigError(f"engine=fsdp cannot go with algorithm={name}, which has no one loss; use engine=ddp")
    if asks:
        raise ConfigError(
            f"engine=fsdp needs a network that is used through its forward pass alone, but task={task.name} with "
            f"algorithm={name} uses its '{asks[0]}'; use engine=ddp"
        )
    if precision.dtype == "float16":
        raise ConfigError("precision=fp16 cannot go with engine=fsdp; use precision=bf16")
    if settings.accumulate > 1:
        raise ConfigError(
            f"trainer.accumulate={settings.accumulate} cannot go with engine=fsdp: all processes take part in each "
            "piece of a batch, and one may have fewer pieces than another; use engine=ddp or trainer.accumulate=1"
        )
    if settings.ema:
        raise ConfigError(f"trainer.ema={settings.ema} cannot go with engine=fsdp; use engine=ddp")


def wanted_layout(node: Node, settings: Settings) -> bool | str:
    """``trainer.channels_last``, with auto settled where weights are cut: FSDP takes contiguous ones alone.

    Raises:
        ConfigError: channels last was asked for.
    """
    wanted = settings.channels_last
    if settings.devices == 1 or not str(node["engine"].get("_target_")).startswith("dlrun.engines.fsdp."):
        return wanted
    if wanted is True:
        raise ConfigError("trainer.channels_last=true cannot go with engine=fsdp; leave it at auto, or use engine=ddp")
    return False


def _many_machines() -> bool:
    import os

    from dlrun.distributed.world import find_world

    world = find_world(os.environ)
    return world is not None and world.local_size < world.size


def check_started(experiment: Experiment, peers: Peers) -> None:
    """Refuse a run of several devices where nobody starts their processes.

    Raises:
        ConfigError: names the commands that do.
    """
    devices = experiment.settings.devices
    if devices != peers.size:
        raise ConfigError(
            f"trainer.devices={devices}, but this run has {peers.size} process{'es' if peers.size > 1 else ''}: only "
            "dlrun train and dlrun resume start several; here use trainer.devices=1"
        )


def sharded(experiment: Experiment) -> bool:
    """Whether no process has the whole network, so that none can look at it alone."""
    return experiment.settings.devices > 1 and str(experiment.node["engine"]["_target_"]).endswith(".Fsdp")


def notes(experiment: Experiment, model: nn.Module) -> list[str]:
    """What the user should know of this run on several devices.

    Raises:
        ConfigError: batch normalisation would get a single example.
    """
    found, devices = [], experiment.settings.devices
    batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if devices > 1 and experiment.device.type == "cpu" and batch_norm:
        if experiment.batch_size < 2 * devices:
            raise ConfigError(
                f"trainer.batch_size={experiment.batch_size} leaves batch normalisation a single example on one of "
                f"{devices} processes; use at least trainer.batch_size={2 * devices}"
            )
        found.append(
            "on the CPU batch normalisation looks at each process's part of a batch: the losses are not those of one "
            "process"
        )
    if sharded(experiment) and experiment.node["tracking"]["tensorboard"]:
        found.append("engine=fsdp: no process has whole weights, so TensorBoard shows numbers and no pictures")
    return found

"""Runs on several processes: what can go along is checked before they start, and what each of them watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from dlrun.binding import Node
from dlrun.data.sharing import Keep, as_it_lies
from dlrun.errors import ConfigError
from dlrun.tasks import Task
from dlrun.training.callbacks import Callback, Saver
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.peers import Peers
from dlrun.training.precision import Precision
from dlrun.training.settings import Settings
from dlrun.training.signals import StopFlag

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


def in_turn(peers: Peers, work: Callable[[bool], None], stop: StopFlag) -> None:
    """Let the first process do something, and then the others find it done: they are called with False.

    Where a signal has ended it and raised ``stop``, the others' flags are raised, and they are not called.
    """
    if peers.size == 1:
        work(True)
        return
    from dlrun.distributed.group import current

    group = current()
    assert group is not None
    if peers.rank == 0:
        work(True)
        group.messages.tell("first", str(stop.number))  # bool(stop) would ask the others, who wait for this
    elif (text := group.messages.wait("first")) is not None:
        stop.number = int(text) or stop.number
        if not stop.number:
            work(False)


def keep(peers: Peers) -> Keep:
    """Where resident data lies: large data once for all processes of a machine."""
    if peers.size == 1:
        return as_it_lies
    from dlrun.distributed.group import current
    from dlrun.distributed.memory import Shared

    group = current()
    assert group is not None
    return Shared(group)


def sink(checkpoints: Checkpoints, peers: Peers) -> Checkpoints:
    """Where checkpoints go: among several processes all gather the state, and the first one writes it."""
    if peers.size == 1:
        return checkpoints
    from dlrun.distributed.group import current
    from dlrun.distributed.saving import SharedCheckpoints

    group = current()
    assert group is not None
    shared: Any = SharedCheckpoints(checkpoints if peers.rank == 0 else None, group)
    return cast(Checkpoints, shared)  # of which a saver uses save and save_best


def sharded(experiment: Experiment) -> bool:
    """Whether no process has the whole network, so that none can look at it alone."""
    return experiment.settings.devices > 1 and str(experiment.node["engine"]["_target_"]).endswith(".Fsdp")


def watchers(usual: Sequence[Callback], saver: Saver, own: Sequence[Callback], peers: Peers) -> list[Callback]:
    """The callbacks of this process: those that write and report belong to the first one."""
    if peers.size == 1:
        return [*usual, saver, *own]
    from dlrun.distributed.group import current
    from dlrun.distributed.saving import SharedSaver

    group = current()
    assert group is not None
    shared = SharedSaver(saver, group)
    return [*usual, shared, *own] if peers.rank == 0 else [shared]


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

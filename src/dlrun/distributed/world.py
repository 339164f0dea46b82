"""Which process of how many this one is, read from the environment that ``torchrun`` or Slurm set; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dlrun.errors import ConfigError

# No step; Slurm's own steps: batch script, interactive shell, extern.
NO_STEP = ("", "4294967291", "4294967290", "4294967294")
PORTS = range(15000, 45000)  # below the ports that Linux hands out by itself


@dataclass(frozen=True)
class World:
    """One process of a run.

    Attributes:
        rank: its number, from 0.
        size: processes in all.
        local_rank: its number on its machine; also that of its GPU.
        local_size: processes on its machine.
        address: host of the first process.
        port: where the processes meet.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int

    def variables(self) -> dict[str, str]:
        """The environment that torch.distributed reads."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def find_world(environment: Mapping[str, str]) -> World | None:
    """The world that this process was started in by ``torchrun`` or ``srun``; None when it is alone.

    Raises:
        ConfigError: the variables contradict one another.
    """
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return _torchrun(environment)
        if "SLURM_PROCID" in environment and _tasks(environment) > 1:
            return _slurm(environment)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the environment of torchrun or Slurm is incomplete ({error}); start the processes with torchrun "
            "--nproc-per-node=N -m dlrun train, or with trainer.devices=N"
        ) from error
    return None


def _torchrun(environment: Mapping[str, str]) -> World | None:
    size = int(environment["WORLD_SIZE"])
    if size < 2:
        return None
    return World(
        rank=int(environment["RANK"]),
        size=size,
        local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", size)),
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
    )


def _tasks(environment: Mapping[str, str]) -> int:
    """Processes of this ``srun``; a batch script or an interactive shell is alone.

    Slurm gives those a process number and the job's number of tasks too. What only ``srun`` sets is the step's number.
    """
    if environment.get("SLURM_STEP_ID", "") in NO_STEP:
        return 1
    return int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1")))


def _slurm(environment: Mapping[str, str]) -> World:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    job = int(environment.get("SLURM_JOB_ID", "0"))
    step = int(environment["SLURM_STEP_ID"])
    size = _tasks(environment)
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", str(size)))
    return World(
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=_count(counts, int(environment.get("SLURM_NODEID", "0"))),
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=int(environment.get("MASTER_PORT", PORTS[(job * 31 + step) % len(PORTS)])),
    )


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: ``gpu[03-05,9],cpu1`` gives ``gpu03``.

    Raises:
        ValueError: the list is empty.
    """
    found = re.match(r"([^,\[\]]+)(?:\[([^,\]-]+)[^\]]*\]([^,\[]*))?", nodes)
    if found is None:
        raise ValueError(f"no host in '{nodes}'")
    return found[1] + (found[2] or "") + (found[3] or "")


def _count(counts: str, node: int) -> int:
    """Tasks of one node in Slurm's short form: ``2(x3),1`` is 2, 2, 2, 1."""
    each: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        each += [int(count)] * int(times or 1)
    return each[node]

"""Which process of how many, from the environments of torchrun and Slurm."""

from __future__ import annotations

import pytest

from dlrun.distributed.world import find_world, first_host
from dlrun.errors import ConfigError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1234"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77",
    "SLURM_TASKS_PER_NODE": "4,2", "SLURM_JOB_NODELIST": "gpu[03-05,9],cpu1", "SLURM_STEP_ID": "0",
}  # fmt: skip


def test_alone_without_a_launcher() -> None:
    assert find_world({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    assert find_world({"RANK": "0", "WORLD_SIZE": "1"}) is None


def test_torchrun() -> None:
    world = find_world(TORCHRUN | {"MASTER_ADDR": "there"})
    assert world is not None
    assert (world.rank, world.size, world.local_rank, world.local_size) == (3, 4, 1, 2)
    assert (world.address, world.port) == ("there", 1234)
    assert world.variables()["RANK"] == "3"


def test_slurm_takes_the_first_host_and_a_port_of_the_job() -> None:
    first, other = find_world(SLURM), find_world(SLURM | {"SLURM_JOB_ID": "78"})
    assert first is not None
    assert other is not None
    assert (first.rank, first.size, first.local_rank, first.local_size) == (5, 6, 1, 2)
    assert first.address == "gpu03"
    assert first.port != other.port
    given = find_world(SLURM | {"MASTER_ADDR": "head", "MASTER_PORT": "5"})
    assert given is not None
    assert (given.address, given.port) == ("head", 5)


# What Slurm's batch step sets for a script of four tasks before any srun: a process number, and the job's tasks.
BATCH = {
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4",
    "SLURM_JOB_ID": "77", "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_JOB_NODELIST": "gpu[03-04]",
}  # fmt: skip


@pytest.mark.parametrize("step", ["4294967291", "4294967290", "4294967294", "", None])
def test_a_batch_script_of_slurm_is_one_process(step: str | None) -> None:
    assert find_world(BATCH if step is None else BATCH | {"SLURM_STEP_ID": step}) is None


def test_srun_in_a_batch_script_is_told_by_its_step() -> None:
    srun = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "gpu04", "SLURM_PROCID": "1"}
    world = find_world(BATCH | srun | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"})
    assert world is not None
    assert (world.rank, world.size, world.local_rank, world.local_size, world.address) == (1, 2, 1, 2, "gpu04")
    assert find_world(BATCH | srun | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None, "srun -n1"


def test_an_incomplete_environment_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        find_world(TORCHRUN)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[007,9]-ib", "n007-ib"), ("x-[2-3],y", "x-2")],
)
def test_the_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host

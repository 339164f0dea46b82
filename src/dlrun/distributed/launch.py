"""Starting the processes of a run on this machine, through torch's own elastic launcher."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public by its documentation
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dlrun.distributed.messages import FOLDER
from dlrun.errors import DlrunError
from dlrun.tracking import lock
from dlrun.tracking.run_directory import RunDirectory

LOCAL = "127.0.0.1"
LOOK_EVERY = 0.1  # seconds between two looks at the processes
SAVING = "600"  # seconds that a stopped run may take to save, in versions of torch that ask


def launch(devices: int, words: Sequence[str]) -> tuple[int, str]:
    """Run ``dlrun WORDS`` on so many processes; the exit code, and a sentence for the user where nobody said it.

    The processes print for themselves. A run whose processes were killed before they could say so is marked failed.
    """
    with tempfile.TemporaryDirectory(prefix="dlrun-") as folder:
        store = local_store()
        with _surroundings(devices, folder):
            code, sentence = _watched(_config(devices, folder, store.port), words)
        run = _note(folder, "run")
        if code and run is not None:
            _mark(Path(run), code, sentence)
        return code, "" if _note(folder, "said") is not None else sentence


def local_store() -> TCPStore:
    """The store that the processes meet in, on a free port that only this machine reaches.

    Torch's own would listen on all interfaces, so it is given a socket that listens already. Its launcher and the
    processes then find this store under its port (``multi_tenant``).
    """
    with socket.create_server((LOCAL, 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        return TCPStore(
            LOCAL, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
        )


def _config(devices: int, folder: str, port: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=Path(folder).name,
        rdzv_backend="static",  # the others listen on all interfaces, or unpickle what they read
        rdzv_endpoint=f"{LOCAL}:{port}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
        monitor_interval=LOOK_EVERY,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def _watched(config: LaunchConfig, words: Sequence[str]) -> tuple[int, str]:
    """Start the processes and wait for their end."""
    here = [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]  # a folder is importable there as it is here
    quoted = [word.replace("$", "$$") for word in words]  # torch fills in ${local_rank}
    try:
        elastic_launch(config, sys.executable)(*here, "-m", "dlrun", *quoted)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode, f"process {rank + 1} ended with the exit code {failure.exitcode}"
        return 128 - failure.exitcode, f"process {rank + 1} was killed by signal {-failure.exitcode}"
    except SignalException as error:
        return 128 + int(error.sigval), ""
    return 0, ""


@contextmanager
def _surroundings(devices: int, folder: str) -> Iterator[None]:
    """The environment of the processes; torch's own remarks on their end are left out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {"OMP_NUM_THREADS": str(max(1, cores // devices)), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": SAVING}
    if sys.platform == "linux":
        wanted["GLOO_SOCKET_IFNAME"] = "lo"  # a machine's own name need not lead to it
    added = {name: value for name, value in wanted.items() if name not in os.environ} | {FOLDER: folder}
    os.environ.update(added)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name in added:
            os.environ.pop(name, None)


def _note(folder: str, name: str) -> str | None:
    with suppress(OSError):
        return (Path(folder) / name).read_text()
    return None


def _mark(path: Path, code: int, sentence: str) -> None:
    """A run that nobody works on any more and that still says running has failed."""
    with suppress(DlrunError, OSError):
        run = RunDirectory.open(path)
        if run.record().get("status") == "running" and not lock.is_held(path / "run.lock"):
            run.lock()
            run.write_record(status="failed", exit_code=code, error=sentence)
            run.unlock()

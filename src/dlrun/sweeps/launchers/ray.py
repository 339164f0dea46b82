"""Workers in tasks of Ray: each task runs the worker's command as a process of its own on whatever node Ray chooses.

Every node has to see the sweep's folder and to have the same Python environment at the same place. As with Slurm, the
worker gets the environment of the master, except for what says which devices it may use: that is Ray's to give.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError
from dlrun.sweeps.launchers import Command
from dlrun.sweeps.launchers.options import read_options
from dlrun.sweeps.launchers.processes import ended_badly, start_process, with_threads

LOGS = "ray"  # folder of a sweep
_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR")
_LOST_NODES = 3  # how often Ray starts a worker again whose node it lost


@dataclass(frozen=True)
class RayOptions:
    """Keys of ``launcher=ray``.

    Attributes:
        address: ``auto`` is the cluster that runs here or that RAY_ADDRESS names; ``local`` starts one on this machine
            for as long as the sweep lasts; else ``HOST:PORT`` or ``ray://HOST:PORT``.
        cpus: of each worker, also the threads that it computes with.
        gpus: of each worker; with 0.5 two share one.
    """

    address: str = "auto"
    cpus: int = 1
    gpus: float = 0.0


def work(command: list[str], folder: str, environment: dict[str, str], threads: int, log: str) -> int:
    """Run a worker's command to its end; the body of the task. Returns its exit code; its outputs go to ``log``."""
    # A Ray that was started in the background of a script ignores SIGINT, and with it ray.cancel.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = {name: os.environ[name] for name in _DEVICES if name in os.environ}
    with Path(log).open("ab") as file:
        process = start_process(command, Path(folder), with_threads({**environment, **given}, threads), file)
    try:
        while process.poll() is None:
            time.sleep(0.2)
    except BaseException:  # ray.cancel raises KeyboardInterrupt here
        process.terminate()
        process.wait()
        raise
    return process.returncode


class RayWorkers:
    """Tasks of Ray."""

    keep = False  # Ray ends the tasks of a driver that has gone

    def __init__(self, tasks: list[Any], logs: list[Path], waiting: str) -> None:
        self.tasks, self.logs = tasks, logs
        self._waiting = waiting
        self._ended: dict[int, str] = {}  # number of a worker that has ended -> its sentence, empty if it ended well
        self._cancelled = False

    def alive(self) -> int:
        """How many have not ended; 0 when the cluster is gone."""
        self._look()
        return len(self.tasks) - len(self._ended)

    def problems(self) -> list[str]:
        """One sentence for each that ended badly, and one when no node has what they ask for."""
        running = self.alive()
        if self._cancelled:
            return []
        found = [sentence for _, sentence in sorted(self._ended.items()) if sentence]
        return [*found, self._waiting] if self._waiting and running else found

    def cancel(self) -> None:
        """Interrupt every task: each sends its worker a SIGTERM."""
        import ray

        if not self._cancelled:
            self._cancelled = True
            for number, task in enumerate(self.tasks):
                if number not in self._ended:
                    ray.cancel(task)

    def _look(self) -> None:
        """Take down how the tasks ended that have ended since."""
        import ray

        waiting = [task for number, task in enumerate(self.tasks) if number not in self._ended]
        if not waiting:
            return
        try:
            done = set(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
        except ray.exceptions.RayError:
            done = set(waiting)  # the cluster has gone; asking for each result tells
        for number, task in enumerate(self.tasks):
            if task in done:
                self._ended[number] = self._sentence(number, task)

    def _sentence(self, number: int, task: Any) -> str:
        import ray

        try:
            code = ray.get(task)
        except (ray.exceptions.RayError, KeyboardInterrupt) as error:
            said = " ".join(str(error).split())[:200]
            return f"worker {number + 1} was lost, Ray says: {said}; its log is {self.logs[number]}"
        return ended_badly(number, code, self.logs[number]) if code else ""


class RayLauncher:
    """Starts workers as tasks of a Ray cluster."""

    def __init__(self, options: Mapping[str, Any], command: Command) -> None:
        self.options = read_options(RayOptions, "ray", options)
        self.command = command
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError("launcher=ray needs ray: pip install 'dlrun[ray]'") from error

    def start(self, folder: Path, count: int) -> RayWorkers:
        """Start ``count`` tasks; logs are in the sweep's folder ``ray``, which every node has to see."""
        import ray

        logs = (folder / LOGS).resolve()
        logs.mkdir(parents=True, exist_ok=True)
        self._connect()
        given = self.options
        task = ray.remote(work).options(
            num_cpus=given.cpus, num_gpus=given.gpus, max_retries=_LOST_NODES, name=f"dlrun {folder.name}"
        )
        environment = {k: v for k, v in os.environ.items() if k not in _DEVICES and not k.startswith("RAY_")}
        words, here = list(self.command(folder)), str(Path.cwd())
        places = [logs / f"worker-{number + 1}.log" for number in range(count)]
        tasks = [task.remote(words, here, environment, given.cpus, str(place)) for place in places]
        return RayWorkers(tasks, places, self._nowhere())

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        address = self.options.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS") or "auto"
        listens = False
        try:
            listens = _reach(address)
            with _own_signals():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            said = " ".join(str(error).split())[:200]
            right = "start one with 'ray start --head', name one with launcher.address, or use launcher.address=local"
            if listens and "RAY_AUTH_MODE" not in os.environ:
                right = "if it asks for a token, export RAY_AUTH_MODE=token"
            raise ConfigError(f"launcher.address={address}: no Ray answers ({said}): {right}") from error

    def _nowhere(self) -> str:
        """A sentence when no node that Ray has now is large enough for one worker, else empty."""
        import ray

        cpus, gpus = self.options.cpus, self.options.gpus
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            return ""
        return (
            f"no node of this Ray has {cpus} CPUs and {gpus:g} GPUs: workers wait for one, or lower launcher.cpus, gpus"
        )


def _reach(address: str) -> bool:
    """Whether it is a ``HOST:PORT`` that somebody listens at; OSError when nobody does: Ray would try for minutes."""
    if found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    return found is not None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's signal handlers: ``ray.init`` puts its own in the place of the one for SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Workers in processes of this machine, on a storage that workers of other machines may use too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.sweeps.launchers import Command
from dlrun.sweeps.launchers.options import read_options
from dlrun.sweeps.launchers.processes import ended_badly, start_process, with_threads

LOGS = "workers"  # folder of a sweep


@dataclass(frozen=True)
class LocalOptions:
    """Keys of ``launcher=local``: ``cpus`` are the threads of each worker, by default its share of the machine's."""

    cpus: int | None = None


class LocalWorkers:
    """Processes, each with a log of its own."""

    keep = False  # they end with the master

    def __init__(self, started: list[tuple[subprocess.Popen[bytes], Path]]) -> None:
        self.started = started
        self._cancelled = False

    def alive(self) -> int:
        """How many have not ended."""
        return sum(process.poll() is None for process, _ in self.started)

    def problems(self) -> list[str]:
        """One sentence for each that ended with another code than 0."""
        if self._cancelled:
            return []
        codes = [(number, process.poll(), log) for number, (process, log) in enumerate(self.started)]
        return [ended_badly(number, code, log) for number, code, log in codes if code]

    def cancel(self) -> None:
        """Send each a SIGTERM, once."""
        if not self._cancelled:
            self._cancelled = True
            for process, _ in self.started:
                process.terminate()


class LocalLauncher:
    """Starts each worker as a process of this machine."""

    def __init__(self, options: Mapping[str, Any], command: Command) -> None:
        self.options = read_options(LocalOptions, "local", options)
        self.command = command

    def start(self, folder: Path, count: int) -> LocalWorkers:
        """Start ``count`` processes; their logs are in the sweep's folder ``workers``."""
        logs = folder / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        threads = self.options.cpus or max(1, len(os.sched_getaffinity(0)) // count)
        environment, started = with_threads(os.environ, threads), []
        for number in range(count):
            log = logs / f"worker-{number + 1}.log"
            with log.open("ab") as file:
                process = start_process(self.command(folder), Path.cwd(), environment, file)
            started.append((process, log))
        return LocalWorkers(started)

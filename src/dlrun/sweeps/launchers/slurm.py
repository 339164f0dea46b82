"""Workers in one job array of Slurm, submitted by submitit.

Submitit writes the batch script, submits it, and starts ``Worker`` in each task of the array. How the tasks are is
asked of ``squeue``, which every cluster has: submitit's own way needs Slurm's accounting, and without it waits for
ever for a job that died. A task whose time runs out, or that is preempted, saves and queues up again by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dlrun.errors import ConfigError
from dlrun.sweeps.launchers import Command
from dlrun.sweeps.launchers.options import minutes, read_options
from dlrun.sweeps.launchers.processes import ended_badly, start_process, with_threads
from dlrun.sweeps.launchers.slurm_queue import OVER, ask, own_task, still_there, still_wanted, task_states

LOGS = "slurm"  # folder of a sweep
_JOBS = "jobs.json"  # in it: the tasks that were submitted, so that a later master finds them
_FOREVER = ("Partition", "BadConstraints", "Account", "Association", "InvalidQOS", "QOSNotAllowed", "JobHeld")
_ASK_SECONDS = 5.0  # a queue of many users must not be asked more often


@dataclass(frozen=True)
class SlurmOptions:
    """Keys of ``launcher=slurm``; what is not given is left to the cluster.

    Attributes:
        partition: where to queue.
        time: limit of a worker, in minutes or such as ``12h``; a worker whose time runs out saves and queues again.
        gpus: of each worker.
        cpus: of each worker, also the threads that it computes with.
        memory: of each worker, such as ``16GB``; a number alone is in GB.
        account: who pays.
        qos: quality of service.
        constraint: features that the node must have.
        setup: lines of shell before the worker starts, such as ``module load cuda``.
        array_parallelism: most workers at the same time; None is all.
        requeue: whether a worker that is preempted or whose time runs out queues again.
        keep: whether the workers go on when the master is stopped.
        sbatch: further options of sbatch by name, such as ``{reservation: course}``.
    """

    partition: str | None = None
    time: str | None = None
    gpus: int | None = None
    cpus: int = 1
    memory: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    array_parallelism: int | None = None
    requeue: bool = True
    keep: bool = False
    sbatch: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Worker:
    """What runs on the node: starts the worker's command and passes on what Slurm says. Pickled by submitit.

    Slurm sends SIGTERM (cancelled, preempted) to the command's process too, so it is not sent on. SIGUSR2 (the time
    is nearly over) is for this process alone.
    """

    command: tuple[str, ...]
    folder: Path
    threads: int
    logs: Path
    requeue: bool

    def __call__(self) -> None:
        """Run the command to its end, write down its exit code, and end with it."""
        task, warned = own_task(os.environ), False

        def warn(number: int, frame: FrameType | None) -> None:
            nonlocal warned
            warned = True

        signal.signal(signal.SIGUSR2, warn)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        process, told = start_process(self.command, self.folder, with_threads(os.environ, self.threads)), False
        while process.poll() is None:
            if warned and not told:
                told = True
                process.terminate()
            time.sleep(0.2)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        saved = code == 128 + signal.SIGTERM and self.requeue and still_wanted(task)
        if not (saved and ask("scontrol", "requeue", task) is not None):
            (self.logs / f"{task}.exit").write_text(str(code))
        if code:
            raise SystemExit(code)


class SlurmWorkers:
    """Tasks of a job array."""

    def __init__(
        self, jobs: Sequence[str], logs: Path, keep: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.jobs, self.logs, self.keep = tuple(jobs), logs, keep
        self._clock = clock
        self._asked: float | None = None
        self._states: dict[str, tuple[str, str]] | None = {}  # of each task: its state, and why it waits
        self._ended: dict[str, str] = {}  # the last state of each that is over: Slurm soon forgets
        self._cancelled = False

    def alive(self) -> int | None:
        """How many wait, run or are queued again; None while Slurm does not answer."""
        self._look()
        return None if self._states is None else len(self.jobs) - len(self._ended)

    def problems(self) -> list[str]:
        """One sentence for each that ended badly, or that Slurm will not start as it is."""
        self._look()
        found = []
        for number, job in enumerate(self.jobs):
            log = self.logs / f"{job}_0_log.out"
            if job in self._ended and not self._cancelled:
                code = self._exit_code(job)
                if code:
                    found.append(ended_badly(number, code, log))
                elif code is None:
                    state = self._ended[job] or "nothing"
                    found.append(f"worker {number + 1} ended without a word, Slurm says {state}; its log is {log}")
            state, reason = (self._states or {}).get(job, ("", ""))
            if state == "PENDING" and reason.startswith(_FOREVER):
                found.append(f"worker {number + 1} cannot start, Slurm says {reason}: see scontrol show job {job}")
        return found

    def cancel(self) -> None:
        """Have Slurm tell all to save and stop; nothing where ``keep`` is set."""
        if not self.keep and not self._cancelled:
            self._cancelled = True
            ask("scancel", *self.jobs)

    def _exit_code(self, job: str) -> int | None:
        """What the worker's command ended with, or None where it was not written down."""
        try:
            return int((self.logs / f"{job}.exit").read_text())
        except (OSError, ValueError):
            return None

    def _look(self) -> None:
        """Ask Slurm, at most every few seconds."""
        if self._asked is not None and self._clock() - self._asked < _ASK_SECONDS:
            return
        self._asked = self._clock()
        self._states = task_states(self.jobs)
        if self._states is not None:
            for job in self.jobs:
                state, _ = self._states.get(job, (self._ended.get(job, ""), ""))
                if state in OVER or job not in self._states:
                    self._ended[job] = state
                else:
                    self._ended.pop(job, None)  # it was queued again


class SlurmLauncher:
    """Starts workers as the tasks of one job array."""

    def __init__(self, options: Mapping[str, Any], command: Command) -> None:
        self.options = read_options(SlurmOptions, "slurm", options)
        self.command = command
        self._minutes = minutes(self.options.time) if self.options.time else None
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ConfigError("launcher=slurm needs submitit: pip install 'dlrun[slurm]'") from error
        missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
        if missing:
            where = "start the sweep on a login node of the cluster, or use launcher=local"
            raise ConfigError(f"launcher=slurm needs Slurm's {missing[0]}, which is not on the path: {where}")
        if ask("squeue", "--noheader", "--me") is None:
            raise ConfigError(
                "launcher=slurm: Slurm does not answer here (squeue fails): see to that, or use launcher=local"
            )

    def start(self, folder: Path, count: int) -> SlurmWorkers:
        """Submit one array of as many workers as are missing to ``count``; those of an earlier master count.

        Logs are in the sweep's folder ``slurm``, which every node has to see.
        """
        logs = (folder / LOGS).resolve()
        logs.mkdir(parents=True, exist_ok=True)
        jobs = still_there(logs / _JOBS)[:count]
        if len(jobs) < count:
            jobs += self._submit(folder, logs, count - len(jobs))
            (logs / _JOBS).write_text(json.dumps(jobs))
        return SlurmWorkers(jobs, logs, self.options.keep)

    def _submit(self, folder: Path, logs: Path, count: int) -> list[str]:
        """The tasks' names of a new array."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        words = tuple(self.command(folder))
        worker = Worker(words, Path.cwd(), self.options.cpus, logs, self.options.requeue)
        executor = submitit.SlurmExecutor(folder=logs)
        executor.update_parameters(**self.parameters(folder.name, count))
        try:
            return [str(job.job_id) for job in executor.submit_array([worker] * count)]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            said = " ".join(str(error).replace("sbatch: error: ", "").split())
            raise ConfigError(f"Slurm does not take the workers: {said}") from error

    def parameters(self, name: str, count: int) -> dict[str, Any]:
        """What submitit is told; None leaves an option out (submitit's own limit would be five minutes)."""
        given = self.options
        # The warning comes early enough to save, but not at once: a third of the time, at most two minutes.
        warning = 120 if self._minutes is None else min(120, self._minutes * 20)
        memory = given.memory
        if memory and memory.replace(".", "", 1).isdigit():
            memory = f"{round(float(memory) * 1024)}M"
        return {
            "job_name": name,
            "partition": given.partition,
            "time": self._minutes,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": given.cpus,
            "gpus_per_node": given.gpus,
            "mem": memory,
            "account": given.account,
            "qos": given.qos,
            "constraint": given.constraint,
            "setup": list(given.setup),
            "array_parallelism": given.array_parallelism or count,
            "signal_delay_s": warning,
            "wckey": None,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue" if given.requeue else "no-requeue": True, **given.sbatch},
        }

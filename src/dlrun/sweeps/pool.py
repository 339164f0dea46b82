"""Isolated jobs: each is one operating-system process with its own group, forked from a server that has torch loaded.

Whatever a job does - raise, exit, crash in C, hang, be killed - ends that process alone, and `Pool.events` says how.
A new process takes some hundredths of a second instead of the seconds that importing torch takes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from dlrun.errors import DlrunError
from dlrun.sweeps import child
from dlrun.sweeps.fork_server import PRELOADED, hidden_main, server_environment
from dlrun.sweeps.jobs import Alive, Apart, Ended, Evaluated, Event, Gone, Job
from dlrun.training.signals import HANDLED

_ASKED_TO_END = [getattr(signal, name) for name in HANDLED if hasattr(signal, name)]
_FROM_OUTSIDE = {-signal.SIGKILL, *(-n for n in _ASKED_TO_END), *(128 + n for n in _ASKED_TO_END)}
_EVENTS: dict[str, Callable[..., Event]] = {
    "alive": Alive,
    "evaluated": Evaluated,
    "ended": Ended,
    "apart": Apart,
}
_LOST = 255  # what multiprocessing says when the fork server itself is gone
_MOMENT = 2.0  # seconds


@dataclass(eq=False)
class _Running:
    job: Job
    slot: int
    process: ForkServerProcess
    link: Connection[Any, Any] | None
    started: float
    heard: float
    server: int | None = None  # the process that forked it, once it has said so
    why: str = ""  # the reason for which the pool killed it


class Pool:
    """Runs at most ``slots`` jobs at a time.

    Args:
        slots: jobs at a time.
        threads: computing threads of each; by default the cores shared out among the slots.
        devices: names of accelerators as CUDA_VISIBLE_DEVICES has them, shared out among the slots in turn; empty
            leaves the environment as it is.
        hang: seconds without a sign of life after which a job is killed.
        timeout: seconds that a trial may take; a job with several may take as many times as long. None is no limit.
        now: the clock. It stands still while the machine sleeps.
    """

    def __init__(
        self,
        slots: int,
        *,
        threads: int | None = None,
        devices: Sequence[str] = (),
        hang: float = 1800.0,
        timeout: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots, self.threads, self.devices = slots, threads or thread_share(slots), tuple(devices)
        self.hang, self.timeout = hang, timeout
        self._now = now
        self._running: list[_Running] = []

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.slots - len(self._running)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that run."""
        return [running.job for running in self._running]

    def start(self, job: Job) -> None:
        """Run a job in a free slot; raises DlrunError when the machine makes no more processes."""
        slot = min(set(range(self.slots)) - {running.slot for running in self._running})
        device = self.devices[slot % len(self.devices)] if self.devices else None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        here, there = context.Pipe()
        try:
            process = self._process(context, (job, there, device, self.threads))
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        now = self._now()
        self._running.append(_Running(job, slot, process, here, now, now))

    def _process(self, context: Any, arguments: tuple[Any, ...]) -> ForkServerProcess:
        for _ in range(3):  # a fork server that was killed is started again
            process: ForkServerProcess = context.Process(target=child.main, args=arguments)
            with server_environment(self.threads), hidden_main(), suppress(EOFError, ConnectionError):
                try:
                    process.start()
                except OSError as error:
                    if isinstance(error, ConnectionError):
                        raise
                    raise DlrunError(f"no process can be started for a trial: {error.strerror or error}") from error
                return process
        raise DlrunError("the process that trials are forked from ends at once; `dlrun train` in its place shows why")

    def events(self, timeout: float) -> list[Event]:
        """What jobs have said and how they ended; waits ``timeout`` seconds for the first of it."""
        there = [thing for one in self._running for thing in (one.link, one.process.sentinel) if thing is not None]
        if there:
            wait(there, timeout)
        elif timeout:
            time.sleep(timeout)
        found: list[Event] = []
        for running in list(self._running):
            code = running.process.exitcode  # before listening: what it said last has then arrived
            found += self._listen(running)
            if code is not None:
                found.append(self._bury(running, code))
            else:  # after listening: a master that was stopped for an hour has heard nothing for an hour
                self._watch(running)
        return found

    def answer(self, job: Job, prune: bool) -> None:
        """Answer the one `Evaluated` of a job that waits for it; nothing happens where it has died meanwhile."""
        link = next((running.link for running in self._running if running.job is job), None)
        if link is not None:
            with suppress(OSError):  # it died while the study was asked
                link.send(prune)

    def interrupt(self) -> None:
        """Ask every job to save and end."""
        for running in self._running:
            if running.process.exitcode is None and running.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(running.process.pid, signal.SIGTERM)

    def kill(self, job: Job, why: str) -> None:
        """End a job and everything it has started at once; ``why`` is the reason that its `Gone` gives."""
        running = self._find(job)
        running.why = running.why or why
        _kill_group(running.process)

    def close(self) -> None:
        """Kill what still runs, and wait for it."""
        for running in self._running:
            _kill_group(running.process)
        for running in list(self._running):
            running.process.join()
            self._bury(running, running.process.exitcode or 0)

    def _find(self, job: Job) -> _Running:
        return next(running for running in self._running if running.job is job)

    def _listen(self, running: _Running) -> list[Event]:
        found: list[Event] = []
        try:
            while running.link is not None and running.link.poll():
                message = running.link.recv()
                running.heard = self._now()
                if message[0] == "begun":
                    running.server = message[1]
                else:
                    found.append(_EVENTS[message[0]](running.job, *message[1:]))
        except (EOFError, OSError):
            if running.link is not None:
                running.link.close()
            running.link = None
        return found

    def _watch(self, running: _Running) -> None:
        now, limit = self._now(), self.timeout
        if now - running.heard > self.hang:
            self.kill(running.job, f"no sign of life for {spoken_time(self.hang)} (sweep.hang)")
        elif limit is not None and now - running.started > limit * len(running.job.trials):
            self.kill(running.job, f"it took longer than {spoken_time(limit)} (sweep.timeout)")

    def _bury(self, running: _Running, code: int) -> Gone:
        _kill_group(running.process)  # what it has started and left behind
        running.process.join()
        running.process.close()
        if running.link is not None:
            running.link.close()
        self._running.remove(running)
        if running.why:
            return Gone(running.job, running.why, 128 + signal.SIGKILL, outside=False)
        if code == _LOST and _is_gone(running.server):
            return Gone(running.job, "the process that it was forked from was killed", 128 + signal.SIGKILL, True)
        return Gone(running.job, _reason(code), 128 - code if code < 0 else code or 1, code in _FROM_OUTSIDE)


def _is_gone(server: int | None) -> bool:
    """Whether the fork server has ended; of a process that could not even say which one it had, it has.

    A process that is killed closes its pipes a moment before its end can be seen, so a moment is waited for it.
    """
    until = time.monotonic() + _MOMENT
    while server is not None:
        try:
            if os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
        except ChildProcessError:  # its end was noticed before
            break
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _kill_group(process: ForkServerProcess) -> None:
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone, or so young that it has no group of its own yet
        if process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _reason(code: int) -> str:
    """How a process ended that said nothing itself."""
    if code >= 0:
        return f"its process ended with exit code {code} without a word"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "a signal"
    text = f"its process was ended by signal {-code} ({name}, {(signal.strsignal(-code) or 'unknown').lower()})"
    return f"{text}: perhaps the system ran out of memory" if code == -signal.SIGKILL else text


def spoken_time(seconds: float) -> str:
    """Seconds in the largest unit that gives a plain number: ``30 minutes``."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} seconds"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_share(slots: int) -> int:
    """Computing threads for each of ``slots`` jobs at a time, at most the user's own OMP_NUM_THREADS."""
    share, wanted = max(1, cores() // slots), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else share


def accelerators() -> tuple[str, ...]:
    """The CUDA devices of this machine, by the names that CUDA_VISIBLE_DEVICES takes; none is opened."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip())
    import torch

    return tuple(str(number) for number in range(torch.cuda.device_count()))

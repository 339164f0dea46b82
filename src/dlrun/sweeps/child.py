"""What runs in the process of a job: its surroundings, its link to the master, and the trial itself."""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dlrun.errors import DivergedError, DlrunError, StorageError
from dlrun.resume import resume
from dlrun.run import Outcome, train
from dlrun.sweeps.endings import about, complete, wait_for
from dlrun.sweeps.fork_server import end_with_parent
from dlrun.sweeps.jobs import Job
from dlrun.sweeps.nouns import DIVERGED, FAILED, Ending, Trial
from dlrun.tasks import Evaluation
from dlrun.tracking.folders import RECORD
from dlrun.training.callbacks import Callback
from dlrun.training.reporters import Lines

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer

OUTPUT = "output.log"
SIGN_OF_LIFE = 1.0  # seconds between two


class Link:
    """The way to the master and back. When the master is gone, so is this process with all it has started."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=self._hear, name="master", daemon=True).start()

    def alive(self, lane: int, step: int, total: int | None) -> None:
        """Give a sign of life."""
        self._say("alive", lane, step, total)

    def evaluated(self, lane: int, step: int, value: float, waits: bool) -> bool:
        """Tell a value of the metric; with ``waits`` the answer is whether the trial is to be pruned."""
        self._say("evaluated", lane, step, value, waits)
        return waits and self._answers.get()

    def ended(self, lane: int, ending: Ending) -> None:
        """Tell how a trial ended."""
        self._say("ended", lane, ending)

    def apart(self, reason: str) -> None:
        """Tell that the trials of the job do not train in one pack."""
        self._say("apart", reason)

    def begun(self, server: int) -> None:
        """Say who forked this process."""
        self._say("begun", server)

    def _say(self, *message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            _end_group()

    def _hear(self) -> None:
        while True:
            try:
                self._answers.put(self._connection.recv())
            except (EOFError, OSError):
                _end_group()


class Watcher(Callback):
    """Tells the master of a trial while it trains: signs of life, and the metric after each evaluation."""

    def __init__(self, link: Link, lane: int, metric: str, watched: bool) -> None:
        self.link, self.lane, self.metric, self.watched = link, lane, metric, watched
        self.due = 0.0

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        """A sign of life, at most once a second."""
        now = time.perf_counter()
        if now >= self.due:
            self.due = now + SIGN_OF_LIFE
            self.link.alive(self.lane, trainer.step, trainer.plan.total_steps)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """The metric of the part it is of; the answer may be to end."""
        metric = f"val/{trainer.goal.metric}" if self.metric == "auto" else self.metric
        value = evaluation.metrics.get(metric.removeprefix(f"{evaluation.split}/"))
        if value is None or not metric.startswith(f"{evaluation.split}/"):
            return
        # The untrained network says nothing of a point: a pruner would judge the luck of the initial weights.
        watched = self.watched and evaluation.split == "val" and evaluation.step > 0
        if self.link.evaluated(self.lane, evaluation.step, value, watched):
            trainer.end("pruned")


def main(job: Job, connection: Connection[Any, Any], device: str | None, threads: int) -> None:
    """The whole life of the process: it carries out ``job`` and ends."""
    server = os.getppid()
    os.setsid()  # its own group, which the pool can kill as one
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the fork server does not listen to it
    link = Link(connection)
    link.begun(server)
    try:
        redirect(job.trials)
    except OSError as error:
        reason = f"cannot write {job.trials[0].folder / OUTPUT}: {error.strerror or error}"
        for lane in range(len(job.trials)):
            link.ended(lane, Ending(FAILED, error=reason, exit_code=StorageError.exit_code))
        return
    faulthandler.enable()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # CUDA reads it when it is first used
    torch.set_num_threads(threads)  # the fork server may have been started for another number
    job.work(job, link)


def redirect(trials: Sequence[Trial]) -> None:
    """Send all that this process prints, from C as well, to the first trial's output.log; raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    for number, trial in enumerate(trials):
        trial.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(trial.folder / OUTPUT, flags, 0o600)
        if number:
            place = os.path.relpath(trials[0].folder / OUTPUT, trial.folder)
            os.write(fd, f"trained in a pack with others: what they print is in {place}\n".encode())
        else:
            os.dup2(fd, 1)
            os.dup2(fd, 2)
        os.close(fd)
    sys.stdout, sys.stderr = (
        open(fd, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - open as long as it lives
        for fd in (1, 2)
    )


def run_trials(job: Job, link: Link, chooses: bool = True) -> None:
    """Train the one trial of a job, or its pack; ``chooses``: it is given up where its trials alone are faster."""
    watched = job.watched or (False,) * len(job.trials)
    watchers = [Watcher(link, lane, job.metric, watched[lane]) for lane in range(len(job.trials))]
    if len(job.trials) == 1:
        link.ended(0, guarded(lambda: run_trial(job.trials[0], watchers, job.trusted)))
        return
    from dlrun.packing.flat import Unpackable
    from dlrun.sweeps.packed import train_pack

    try:
        train_pack(
            job.trials,
            trusted=job.trusted,
            callbacks_of=lambda lane: (watchers[lane],),
            ended=link.ended,
            alive=lambda: link.alive(0, 0, None),
            reporter=Lines(sys.stdout),
            chooses=chooses,
        )
    except Unpackable as reason:
        print(f"these trials do not train together: {reason}")
        link.apart(str(reason))


def guarded(training: Callable[[], Outcome]) -> Ending:
    """Train and say what came of it; the value is left to the master, who reads it from the run's record.

    When a signal asked it to end, it has not ended: the process exits with the code of that signal.
    """
    try:
        outcome = training()
    except DlrunError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = DIVERGED if isinstance(error, DivergedError) else FAILED
        return Ending(status, error=str(error), exit_code=error.exit_code)
    except SystemExit as error:
        traceback.print_exc()
        code = error.code if isinstance(error.code, int) else 1
        return Ending(FAILED, error=f"it called sys.exit({error.code!r})", exit_code=code or 1)
    except Exception as error:
        traceback.print_exc()
        return Ending(FAILED, error=f"{type(error).__name__}: {error}"[:2000], exit_code=1)
    if outcome.status == "interrupted":
        sys.exit(outcome.exit_code)
    return Ending(outcome.status, exit_code=outcome.exit_code)


def run_trial(trial: Trial, callbacks: Sequence[Callback], trusted: Sequence[str]) -> Outcome:
    """Train a trial in its own directory, from its checkpoint where it was begun before; raises what training does."""
    reporter = Lines(sys.stdout)
    wait_for(trial.folder)
    if (trial.folder / RECORD).exists():
        complete(trial)
        return resume(trial.folder, overrides=[], reporter=reporter, trusted=trusted, callbacks=callbacks)
    return train(
        composed(trial),
        root=trial.folder.parent,
        folder=trial.folder,
        command=list(trial.command),
        reporter=reporter,
        trusted=trusted,
        callbacks=callbacks,
        about=about(trial),
    )


def composed(trial: Trial) -> DictConfig:
    """A trial's configuration, as ``dlrun.config.compose`` gives it."""
    config = OmegaConf.create(trial.config)
    assert isinstance(config, DictConfig), "a configuration is a table"
    OmegaConf.set_struct(config, True)
    return config


def _end_group() -> None:
    with suppress(ProcessLookupError):
        os.killpg(os.getpgrp(), signal.SIGKILL)

"""What watches a run: the interface, the reporter a person reads, history, progress and checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from dlrun.tasks import Evaluation
from dlrun.tracking.history import History
from dlrun.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer


class Reporter(Protocol):
    """What a person sees of a run; ``dlrun.console`` has the one that prints."""

    def experiment(self, description: Any, path: Path) -> None:
        """The resolved experiment and the network, before training."""
        ...

    def note(self, text: str) -> None:
        """One sentence of information."""
        ...

    def warn(self, text: str) -> None:
        """One sentence about something that may be wrong."""
        ...

    def evaluation(self, evaluation: Evaluation, baseline: dict[str, float], total_steps: int | None) -> None:
        """One line per evaluation."""
        ...

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """Where the run stands; called a few times a second."""
        ...

    def closing(
        self, title: str, metrics: dict[str, float], baseline: dict[str, float], path: Path, facts: dict[str, str]
    ) -> None:
        """The closing table and the run's path."""
        ...

    def stop(self) -> None:
        """End the live display."""
        ...


class Callback:
    """Does nothing at every occasion; a callback overrides those it needs.

    Attributes:
        every: steps after which ``on_step`` must be called, whatever else is due; None when any step will do.
    """

    every: int | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """Every ``tracking.every`` steps; the gradients of the last step are still there."""

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """After each evaluation."""

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        """After everything else of a step. Hot: under a microsecond when nothing is due."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, also when it was interrupted."""


class Recorder(Callback):
    """Writes every row and every evaluation to history.jsonl, the source of truth."""

    def __init__(self, history: History) -> None:
        self.history = history

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """One line per logged row."""
        self._append(trainer, row)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """One line per evaluation."""
        self._append(trainer, {f"{evaluation.split}/{k}": v for k, v in evaluation.metrics.items()})

    def _append(self, trainer: Trainer, values: dict[str, float]) -> None:
        clock = {"step": trainer.step, "epoch": round(trainer.epoch, 4), "seconds": round(trainer.seconds, 3)}
        self.history.append(clock | values)


class Progress(Callback):
    """Tells the reporter where the run stands, at most three times a second."""

    def __init__(self, reporter: Reporter, interval: float = 0.33) -> None:
        self.reporter = reporter
        self.interval = interval
        self.due = 0.0

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        """Report when the interval is over."""
        now = time.perf_counter()
        if now >= self.due:
            self.due = now + self.interval
            self.reporter.progress(trainer.step, trainer.plan.total_steps, trainer.share(), trainer.latest)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """One line, with the training loss as it stands."""
        self.reporter.progress(trainer.step, trainer.plan.total_steps, trainer.share(), trainer.latest)
        self.reporter.evaluation(evaluation, evaluation.baseline, trainer.plan.total_steps)


class Saver(Callback):
    """Writes checkpoints: every so many steps, or as often as costs under ``share`` of the time.

    The first comes when what it is likely to cost, from the size of the network, fits into the share.
    """

    SHORTEST, LONGEST = 1.0, 600.0  # seconds between two
    LEAST, BYTES_PER_SECOND = 0.02, 2e8  # what a small one takes to be safe on a disk, and how fast a large one goes

    def __init__(
        self,
        checkpoints: Checkpoints,
        history: History,
        every: int | None,
        extra: dict[str, Any],
        share: float = 0.003,
    ) -> None:
        self.checkpoints = checkpoints
        self.history = history
        self.every = every
        self.extra = extra
        self.share = share
        self.due = time.perf_counter() + self.SHORTEST
        self.saved = (-1, -1)  # the step, and the step of its last evaluation
        self.best_step = -1

    def on_start(self, trainer: Trainer) -> None:
        """A resumed run's step and best network are on disk already."""
        self.saved = (trainer.step, trainer.evaluated_at) if trainer.step else (-1, -1)
        self.best_step = trainer.best.step if trainer.best and trainer.best.model is not None else -1
        size = 4 * sum(p.numel() * p.element_size() for p in trainer.updater.parameters)  # with two moments and a best
        self._wait_after(self.LEAST + size / self.BYTES_PER_SECOND)

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        """Save when due."""
        if self.every:
            if trainer.step % self.every == 0:
                self.save(trainer)
        elif time.perf_counter() >= self.due:
            self.save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """The last state is always saved."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Best first, then the step: a crash in between leaves a best that the replay finds again."""
        now = (trainer.step, trainer.evaluated_at)
        if now == self.saved:
            return
        started = time.perf_counter()
        trainer.check_finite()
        self.history.sync()  # a power cut must not leave a checkpoint whose rows are gone
        if trainer.best is not None and trainer.best.model is not None and trainer.best.step != self.best_step:
            self.checkpoints.save_best(trainer.best.step, trainer.best.state() | self.extra)
            self.best_step = trainer.best.step
        self.checkpoints.save(trainer.step, trainer.state_dict() | self.extra)
        self.saved = now
        self._wait_after(time.perf_counter() - started)

    def _wait_after(self, cost: float) -> None:
        self.due = time.perf_counter() + min(self.LONGEST, max(self.SHORTEST, cost / self.share))

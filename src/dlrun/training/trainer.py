"""The loop: set the rate, step, log, evaluate, stop when told.

The Trainer counts; it never unpacks a batch. Every step consumes one batch, so the step number is the whole position:
epoch and place in it follow, and a resumed run goes on with the batch that would have come.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dlrun.algorithms import Algorithm
from dlrun.data.batches import Batches
from dlrun.data.facts import Facts
from dlrun.engines import Step
from dlrun.errors import DivergedError
from dlrun.schedules import Schedule
from dlrun.tasks import Batch, Evaluation, Monitor, Task
from dlrun.training.average import Average
from dlrun.training.best import Best, copied
from dlrun.training.callbacks import Callback
from dlrun.training.evaluation import EvaluationStopped, Viewed, as_it_is, evaluate
from dlrun.training.peers import ALONE, Peers
from dlrun.training.plan import Plan
from dlrun.training.precision import Precision
from dlrun.training.signals import StopFlag
from dlrun.training.state import restore, state_of
from dlrun.training.taking import Take, one_step
from dlrun.training.window import REMEDY, Window

T = TypeVar("T")


class Trainer:
    """When things happen.

    Args:
        algorithm: how the parameters change; its updater takes the rate.
        take_step: the engine's step.
        train: batches of the training part.
        val: batches of the validation part, or None when nothing is held out.
        plan: how long and how often.
        goal: the metric of the validation part that chooses the best network.
        stop: raised by a signal.
        peers: the processes of the run; all of them call the same methods in the same order.
        viewed: the model as evaluation sees it, for one part: a language model may carry its state from batch to batch.
        take: takes the next step or, up to ``steps_left``, several; the logs of each.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        facts: Facts,
        algorithm: Algorithm,
        take_step: Step,
        schedule: Schedule,
        average: Average,
        precision: Precision,
        train: Batches,
        val: Batches | None,
        plan: Plan,
        goal: Monitor,
        stop: StopFlag,
        viewed: Viewed = as_it_is,
        take: Take = one_step,
        callbacks: Sequence[Callback] = (),
        peers: Peers = ALONE,
    ) -> None:
        self.model, self.task, self.facts = model, task, facts
        self.algorithm, self.updater, self.take_step = algorithm, algorithm.updater, take_step
        self.schedule, self.average, self.viewed, self.take = schedule, average, viewed, take
        self.train, self.val, self.plan, self.goal, self.stop = train, val, plan, goal, stop
        self.callbacks, self.peers = list(callbacks), peers
        self.autocast = precision.autocast(self.updater.parameters[0].device)
        self.step = 0
        self.best: Best | None = None
        self.latest: dict[str, float] = {}
        self.window = Window()
        self.evaluated_at = self.logged_at = -1
        self.evaluations_without_progress = 0
        self.timings: dict[str, float] = {}
        self._ending: str | None = None
        self._seconds_before, self._step_before = 0.0, 0  # of the run's earlier processes
        self._started = self._window_started = time.perf_counter()

    def fit(self) -> str:
        """Train from where the run stands; returns why it ended: finished, budget, early stop, pruned, interrupted."""
        return self.guarded(lambda: self.finish(self.begin() or self._train()))

    def guarded(self, work: Callable[[], T]) -> T:
        """Do a part of the training; where it fails for weights that are NaN, DivergedError says so."""
        try:
            return work()
        except RuntimeError:
            if self.peers.size == 1:  # the check may need all processes, and the others are elsewhere
                self.check_finite()  # sampling from NaN fails before any row is read: the weights say why
            raise

    def begin(self) -> str | None:
        """Tell the callbacks, evaluate the network as it stands; why the run is over already, if it is."""
        opened = time.perf_counter()
        self._tell("on_start")
        self._started = self._window_started = time.perf_counter()
        self.timings = {"start_seconds": self._started - opened}  # the graph, the first pictures
        reason = (self.evaluate() if self._evaluation_due() else None) or self._stop_reason()
        self.model.train()
        return reason

    def _train(self) -> str:
        batches, reason = self._batches(), None
        while reason is None:
            reason = self.advance(self.take(self, batches))
        return reason

    def advance(self, logs: Sequence[dict[str, Tensor]]) -> str | None:
        """Count the steps just taken (their logs), do what is due; why the run ends here, if it does."""
        self.step += len(logs)
        self.window.add(logs)
        if len(self.window) >= self.plan.log_every:
            self.log()
        reason = (self.evaluate() if self._evaluation_due() else None) or self._stop_reason()
        for callback in self.callbacks:
            callback.on_step(self, logs[-1])
        return reason

    def finish(self, reason: str) -> str:
        """The last row, evaluation and checkpoint; "interrupted" when a signal breaks them off, else ``reason``."""
        if reason != "interrupted" and self.window:
            self.log()
        if reason != "interrupted" and self.evaluated_at != self.step:
            reason = self.evaluate() or reason
        self.check_finite()
        trained = time.perf_counter()
        self._tell("on_end")
        self.timings |= {"fit_seconds": trained - self._started, "end_seconds": time.perf_counter() - trained}
        return reason

    def end(self, reason: str) -> None:
        """Ask the run to end after this step, as a callback that prunes does."""
        self._ending = reason

    def factor(self, ahead: int = 0) -> float:
        """What the schedule makes of the base rate in the next step, or so many steps later."""
        return self.schedule.factor(self.step + ahead, self._total(), len(self.train))

    def steps_left(self) -> int:
        """Steps until something is due: a logged row, an evaluation, a checkpoint, the end; at least 1."""
        plan, step = self.plan, self.step
        left = [plan.log_every - len(self.window), plan.evaluate_every - step % plan.evaluate_every]
        left += [] if plan.total_steps is None else [plan.total_steps - step]
        left += [callback.every - step % callback.every for callback in self.callbacks if callback.every]
        return max(1, min(left))

    def _batches(self) -> Iterator[Batch]:
        """Batches without end, from the place where the run stands."""
        epoch, start = divmod(self.step, len(self.train))  # once: a turn of several steps is counted at its end
        while True:
            yield from self.train.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def log(self) -> None:
        """Read the window from the device, once, and hand the row to the callbacks."""
        means = self.window.means(self.step, self.updater.scaled)
        seconds, waited = max(time.perf_counter() - self._window_started, 1e-9), self.train.waited()
        seen = self.train.seen(self.step) - self.train.seen(max(self.step - len(self.window), self._step_before))
        row = means | {
            "rate": self.updater.rate,
            "gradient_norm": float(self.updater.gradient_norm()),
            "examples_per_second": seen / seconds,
            **({} if waited is None else {"data_wait": min(1.0, waited / seconds)}),
        }
        self.latest = self.latest | row
        self.window.clear()
        self.logged_at = self.step
        self._tell("on_log", row)
        self._window_started = time.perf_counter()

    def evaluate(self) -> str | None:
        """Evaluate the validation part and keep the best network; "interrupted" when a signal broke it off."""
        # The training loss beside the validation's is of the steps since the last evaluation: a row of them, or, when
        # there was none yet, what the window holds. A row of a few steps after another row would only be noise.
        due = self.step == self.plan.total_steps or self.logged_at <= self.evaluated_at
        if self.window and (due or 2 * len(self.window) >= self.plan.log_every):
            self.log()
        self.evaluated_at = self.step
        if self.val is None:
            return None
        started = time.perf_counter()
        try:
            with self.average.applied():
                evaluation = evaluate(
                    self.model, self.task, self.val, self.autocast,
                    split="val", step=self.step, epoch=self.epoch, stop=self.stop, viewed=self.viewed,
                )  # fmt: skip
                evaluation = replace(evaluation, metrics=self.peers.same(evaluation.metrics))
                self._compare(evaluation)
        except EvaluationStopped:
            self.evaluated_at = -1  # owed: the resumed run begins with it
            return "interrupted"
        found = {"val": evaluation.metrics, "baseline": evaluation.baseline}
        self.latest = self.latest | {f"{part}/{name}": v for part, of in found.items() for name, v in of.items()}
        self._tell("on_evaluation", evaluation)
        self._window_started += time.perf_counter() - started  # the rate of training is not that of evaluating
        return None

    def _compare(self, evaluation: Evaluation) -> None:
        """Remember the network when it is the best so far; among equals the one with the lower loss.

        The schedule sees every value, lower being better.
        """
        value = evaluation.metrics[self.goal.metric]
        loss = evaluation.metrics.get("loss", value)
        if not math.isfinite(loss):
            raise DivergedError(f"val/loss became {loss} at step {self.step}; {REMEDY}")
        if self.step > 0:
            self.schedule.observe(-value if self.goal.higher_is_better else value)
        better = self.best is None or self.best.beaten_by(value, loss, self.goal)
        if better and not math.isnan(value):
            self.best = Best(self.step, value, evaluation.metrics, copied(self.model))
            self.evaluations_without_progress = 0
        else:
            self.evaluations_without_progress += 1

    def check_finite(self) -> None:
        """Raise DivergedError when a loss since the last row, or a weight, is NaN or infinite."""
        self.window.check(self.step, self.updater.scaled)
        weights = [p.detach() for p in self.updater.parameters]
        if not bool(torch.stack(torch._foreach_norm(weights)).isfinite().all()):
            names = ", ".join([n for n, p in self.model.named_parameters() if not bool(p.isfinite().all())][:3])
            raise DivergedError(f"the weights {names} became NaN or infinite by step {self.step}; {REMEDY}")

    def _evaluation_due(self) -> bool:
        due = self.step % self.plan.evaluate_every == 0 or self.step == self.plan.total_steps
        return due and self.evaluated_at != self.step

    def _stop_reason(self) -> str | None:
        if self.stop:
            return "interrupted"
        if (ending := self.peers.ending(self._ending)) is not None:
            return ending
        if self.plan.total_steps is not None and self.step >= self.plan.total_steps:
            return "finished"
        if self.plan.early_stop is not None and self.evaluations_without_progress >= self.plan.early_stop:
            return "early stop"
        if self.plan.budget is not None and self.peers.clock(self.seconds) >= self.plan.budget:
            return "budget"
        return None

    def _total(self) -> int:
        """All steps of the run; under a budget alone, as many as the time used so far lets expect."""
        return self.plan.total_steps or max(self.step + 1, int(self.step / max(self.share(), 1e-6)))

    @property
    def epoch(self) -> float:
        """Passes over the training part done."""
        return self.step / len(self.train)

    @property
    def seconds(self) -> float:
        """Training time of this and all earlier processes of the run."""
        return self._seconds_before + time.perf_counter() - self._started

    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        by_step = self.step / self.plan.total_steps if self.plan.total_steps else 0.0
        return min(1.0, max(by_step, self.peers.clock(self.seconds) / self.plan.budget if self.plan.budget else 0.0))

    def _tell(self, occasion: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, occasion)(self, *args)

    def state_dict(self) -> dict[str, Any]:
        """Everything the rest of the run depends on."""
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any], best: dict[str, Any] | None) -> None:
        """The inverse of ``state_dict``; ``best`` is the best checkpoint's state, where there is one."""
        restore(self, state, best)
        self._seconds_before, self._step_before = state["seconds"], state["step"]

"""The loop, step by step: what happens when, what a resumed run goes on with, and when it ends."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.errors import DivergedError
from dlrun.tasks import Batch, Evaluation, Monitor
from dlrun.training.average import ExponentialAverage
from dlrun.training.callbacks import Callback
from dlrun.training.signals import StopFlag
from dlrun.training.trainer import Trainer
from tiny import Halving, batches, make_trainer, plan, weights


class Diary(Callback):
    """Writes down every occasion."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.rows: dict[int, dict[str, float]] = {}
        self.losses: list[float] = []
        self.evaluations: list[Evaluation] = []

    def on_start(self, trainer: Trainer) -> None:
        self.lines.append(("start", trainer.step))

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        self.lines.append(("log", trainer.step))
        self.rows[trainer.step] = row

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        self.lines.append(("evaluation", trainer.step))
        self.evaluations.append(evaluation)

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        self.lines.append(("step", trainer.step))
        self.losses.append(float(logs["loss"]))

    def on_end(self, trainer: Trainer) -> None:
        self.lines.append(("end", trainer.step))


class At(Callback):
    """Calls something once, after a step."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        if trainer.step == self.step:
            self.do(trainer)


class StopAtEvaluation(Callback):
    """A signal that arrives right after an evaluation."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        if trainer.step == self.step:
            stop_by(trainer)


def stop_by(trainer: Trainer) -> None:
    trainer.stop.number = 15


def stopping(trainer: Trainer) -> Any:
    """The trainer's step, with a signal that arrives while it runs."""
    take = trainer.take_step

    def take_step(batch: Batch) -> dict[str, Tensor]:
        stop_by(trainer)
        return take(batch)

    return take_step


def stopped(step: int, **parts: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The state of a run that a signal ended after ``step``."""
    trainer = make_trainer(At(step - 1, stop_by), **parts)  # seen after the next step
    if step == 1:
        trainer.take_step = stopping(trainer)
    assert trainer.fit() == "interrupted"
    assert trainer.step == step
    return copy.deepcopy(trainer.state_dict()), None if trainer.best is None else trainer.best.state()


def recording(taken: list[Tensor], train: Any) -> Any:
    """The same batches, with each one's inputs written down."""
    whole = train.epoch

    def epoch(number: int, start: int = 0) -> Any:
        for batch in whole(number, start):
            taken.append(batch[0])
            yield batch

    train.epoch = epoch
    return train


def test_the_order_of_a_run() -> None:
    diary = Diary()
    assert make_trainer(diary).fit() == "finished"
    assert diary.lines == [
        ("start", 0), ("evaluation", 0),
        ("step", 1), ("log", 2), ("step", 2), ("log", 3), ("evaluation", 3), ("step", 3),
        ("step", 4), ("log", 5), ("step", 5), ("log", 6), ("evaluation", 6), ("step", 6), ("end", 6),
    ]  # fmt: skip


def test_an_end_between_two_evaluations_is_evaluated_once() -> None:
    diary = Diary()
    make_trainer(diary, plan=plan(total=5, every=4)).fit()
    assert [step for what, step in diary.lines if what == "evaluation"] == [0, 4, 5]


def test_a_row_holds_the_exact_mean_of_its_window() -> None:
    diary = Diary()
    make_trainer(diary, plan=plan(total=7, log=3, every=5)).fit()
    assert list(diary.rows) == [3, 5, 7], "three steps in a row, or before an evaluation at least half of that"
    assert diary.rows[3]["train/loss"] == sum(diary.losses[:3]) / 3
    assert diary.rows[5]["train/loss"] == sum(diary.losses[3:5]) / 2
    assert diary.rows[7]["train/loss"] == sum(diary.losses[5:]) / 2
    assert all(row["gradient_norm"] > 0 and row["examples_per_second"] > 0 for row in diary.rows.values())


def test_the_rate_is_set_before_each_step() -> None:
    rates: list[float] = []

    def take_step(batch: Batch) -> dict[str, Tensor]:
        rates.append(trainer.updater.rate)
        return {"loss": torch.zeros(())}

    trainer = make_trainer(take_step=take_step)
    trainer.updater.gradient_norm = lambda: torch.zeros(())  # type: ignore[method-assign]
    trainer.fit()
    assert rates == [0.1 * 0.5**step for step in range(6)]


def test_the_epoch_turns_after_all_batches() -> None:
    taken: list[Tensor] = []
    trainer = make_trainer(train=recording(taken, batches(10)))
    trainer.fit()
    assert [len(x) for x in taken] == [4, 4, 2, 4, 4, 2]
    assert trainer.epoch == 2.0
    assert torch.equal(torch.cat(taken[:3]).sort(0).values, torch.cat(taken[3:]).sort(0).values)
    assert not torch.equal(taken[0], taken[3]), "another epoch, another order"


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_resumed_run_takes_the_batches_that_would_have_come(step: int) -> None:
    whole: list[Tensor] = []
    through = make_trainer(train=recording(whole, batches(10)))
    through.fit()
    state, best = stopped(step)
    rest: list[Tensor] = []
    resumed = make_trainer(train=recording(rest, batches(10)))
    resumed.load_state_dict(state, best)
    assert resumed.fit() == "finished"
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[step:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(through), strict=True))
    assert resumed.best is not None
    assert through.best is not None
    assert resumed.best.summary() == through.best.summary()


def test_the_window_survives_a_checkpoint() -> None:
    whole, rest = Diary(), Diary()
    make_trainer(whole, plan=plan(log=5, every=6)).fit()
    state, best = stopped(3, plan=plan(log=5, every=6))
    assert len(state["window"]) == 3
    resumed = make_trainer(rest, plan=plan(log=5, every=6))
    resumed.load_state_dict(state, best)
    resumed.fit()
    assert rest.rows[5]["train/loss"] == whole.rows[5]["train/loss"]


def test_a_finished_run_takes_no_more_steps() -> None:
    trainer = make_trainer()
    trainer.fit()
    before = weights(trainer)
    assert trainer.fit() == "finished"
    assert trainer.step == 6
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


def valued(values: list[float], **parts: Any) -> tuple[Trainer, Diary]:
    """A trainer whose validation metric takes the given values in turn, at a constant loss, one evaluation a step."""
    diary = Diary()
    parts = {"plan": plan(total=len(values) - 1, every=1), "goal": Monitor("mse", higher_is_better=False)} | parts
    trainer = make_trainer(diary, **parts)
    given = iter(values)
    metrics = trainer.task.metrics
    trainer.task.metrics = lambda o, t: metrics(o, t) | {"mse": torch.tensor(next(given))}  # type: ignore[method-assign]
    trainer.task.outputs_loss = lambda o, t: torch.ones(())  # type: ignore[method-assign]
    return trainer, diary


def test_best_is_strictly_better_and_never_nan() -> None:
    trainer, _ = valued([4.0, 3.0, 3.0, math.nan, 2.0, 2.0, 5.0])
    trainer.fit()
    assert trainer.best is not None
    assert (trainer.best.step, trainer.best.value) == (4, 2.0)
    assert trainer.evaluations_without_progress == 2


def test_among_equals_the_lower_loss_is_the_best() -> None:
    trainer, _ = valued([2.0, 2.0, 2.0, 2.0])
    losses = iter([1.0, 0.5, 0.5, 0.7])
    trainer.task.outputs_loss = lambda o, t: torch.tensor(next(losses))  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.best is not None
    assert (trainer.best.step, trainer.best.metrics["loss"]) == (1, 0.5)


def test_higher_can_be_better_and_the_schedule_sees_the_negative() -> None:
    schedule = Halving()
    trainer, _ = valued([1.0, 2.0, 1.5], goal=Monitor("mse", higher_is_better=True), schedule=schedule)
    trainer.fit()
    assert trainer.best is not None
    assert trainer.best.value == 2.0
    assert schedule.seen == [-2.0, -1.5], "the untrained network is no step of the schedule"


def test_the_best_network_is_a_copy() -> None:
    trainer, _ = valued([3.0, 1.0, 2.0])
    kept: list[Tensor] = []
    trainer.callbacks.append(At(1, lambda t: kept.extend(weights(t))))
    trainer.fit()
    assert trainer.best is not None
    assert all(torch.equal(a, b) for a, b in zip(kept, trainer.best.model.values(), strict=True))
    assert not torch.equal(kept[0], weights(trainer)[0])


def test_early_stopping_counts_evaluations_without_progress() -> None:
    trainer, _ = valued([3.0, 2.0, 2.0, 2.5, 1.0, 1.0], plan=plan(total=5, every=1, early_stop=2))
    assert trainer.fit() == "early stop"
    assert trainer.step == 3


def test_early_stopping_counts_across_a_resume() -> None:
    settings = {"plan": plan(total=9, every=1, early_stop=3)}
    first, _ = valued([1.0, 2.0, 2.0], **settings)
    first.callbacks.append(StopAtEvaluation(2))
    assert first.fit() == "interrupted"
    assert (first.step, first.evaluations_without_progress) == (2, 2)
    assert first.best is not None
    second, _ = valued([2.0], **settings)
    second.load_state_dict(copy.deepcopy(first.state_dict()), first.best.state())
    assert second.fit() == "early stop"
    assert second.step == 3


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_loss_that_is_no_number_names_its_step(bad: float, step: int) -> None:
    trainer = make_trainer(plan=plan(total=6, every=6, log=3))
    take = trainer.take_step

    def take_step(batch: Batch) -> dict[str, Tensor]:
        logs = take(batch)
        return {"loss": torch.tensor(bad)} if trainer.step + 1 == step else logs

    trainer.take_step = take_step
    with pytest.raises(DivergedError, match=rf"train/loss became {bad} at step {step};"):
        trainer.fit()


def test_a_weight_that_is_no_number_is_named() -> None:
    trainer = make_trainer()
    trainer.model.bias.data.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(DivergedError, match=r"the weights bias became NaN or infinite by step 0"):
        trainer.check_finite()


def test_an_infinite_validation_loss_ends_the_run() -> None:
    trainer = make_trainer()
    trainer.task.outputs_loss = lambda o, t: torch.tensor(math.inf)  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="val/loss became inf at step 0"):
        trainer.fit()
    assert trainer.best is None


def test_a_signal_during_an_evaluation_leaves_it_owed() -> None:
    stop = StopFlag()
    trainer = make_trainer(stop=stop)
    assert trainer.val is not None
    in_order = trainer.val.in_order

    def raising() -> Any:
        for batch in in_order():
            stop.number = 15 if trainer.step == 3 else 0
            yield batch

    trainer.val.in_order = raising  # type: ignore[method-assign]
    assert trainer.fit() == "interrupted"
    assert (trainer.step, trainer.evaluated_at) == (3, -1)
    diary, through = Diary(), Diary()
    resumed = make_trainer(diary)
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()), None)
    assert resumed.fit() == "finished"
    assert diary.lines[:2] == [("start", 3), ("evaluation", 3)]
    make_trainer(through).fit()
    assert [e.metrics for e in diary.evaluations] == [e.metrics for e in through.evaluations[1:]]


def test_a_signal_ends_the_run_after_the_step_without_an_evaluation() -> None:
    diary = Diary()
    trainer = make_trainer(diary, At(1, stop_by))
    assert trainer.fit() == "interrupted"
    assert trainer.step == 2, "a signal in the callbacks of step 1 is seen after step 2"
    assert diary.lines[-2:] == [("step", 2), ("end", 2)]


def test_a_budget_ends_the_run_and_time_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("dlrun.training.trainer.time.perf_counter", lambda: clock[0])
    diary = Diary()
    trainer = make_trainer(diary, plan=plan(total=None, every=100, budget=5.0))
    take = trainer.take_step

    def take_step(batch: Batch) -> dict[str, Tensor]:
        clock[0] += 1.0
        return take(batch)

    trainer.take_step = take_step
    shares: list[float] = []
    trainer.callbacks.append(At(2, lambda t: shares.append(t.share())))
    assert trainer.fit() == "budget"
    assert (trainer.step, trainer.seconds, shares, trainer.share()) == (5, 5.0, [0.4], 1.0)
    assert diary.lines[-2:] == [("evaluation", 5), ("end", 5)]
    longer = make_trainer(plan=plan(total=None, every=100, budget=8.0))
    longer.load_state_dict(copy.deepcopy(trainer.state_dict()), None)
    assert longer.seconds == 5.0


def test_the_share_of_the_run_is_between_0_and_1() -> None:
    shares: list[float] = []
    trainer = make_trainer(plan=plan(total=6, budget=1e9))
    trainer.callbacks.extend(At(step, lambda t: shares.append(t.share())) for step in range(1, 7))
    assert trainer.share() == 0.0 or trainer.share() < 1e-6
    trainer.fit()
    assert shares == pytest.approx([step / 6 for step in range(1, 7)])
    trainer.step = 99
    assert trainer.share() == 1.0


def test_evaluations_leave_the_random_streams_alone() -> None:
    """Dropout draws the same masks with an evaluation after every step, one at the end, and no held-out part."""
    ends = []
    for changed in ({"plan": plan(every=1)}, {"plan": plan(every=6)}, {"val": None}):
        trainer = make_trainer(
            model=nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)), schedule=Halving(), **changed
        )
        torch.manual_seed(5)
        nn.init.normal_(trainer.model[0].weight)  # type: ignore[index, arg-type]
        nn.init.normal_(trainer.model[2].weight)  # type: ignore[index, arg-type]
        nn.init.zeros_(trainer.model[0].bias)  # type: ignore[index, arg-type]
        nn.init.zeros_(trainer.model[2].bias)  # type: ignore[index, arg-type]
        trainer.fit()
        assert trainer.model.training
        ends.append(weights(trainer))
    for other in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))


def test_the_average_is_evaluated_and_the_trained_weights_stay() -> None:
    plain = make_trainer(val=None)
    plain.fit()
    averaged = make_trainer()
    averaged.average = ExponentialAverage(averaged.model, 0.5)
    averaged.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(averaged), strict=True))
    assert averaged.best is not None
    assert averaged.best.step == 6
    assert torch.equal(averaged.best.model["weight"], averaged.average.weights[0])
    assert not torch.equal(averaged.best.model["weight"], weights(averaged)[0])


def test_without_a_held_out_part_there_is_no_best_network() -> None:
    diary = Diary()
    trainer = make_trainer(diary, val=None)
    assert trainer.fit() == "finished"
    assert trainer.best is None
    assert not diary.evaluations

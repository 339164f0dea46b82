"""Recorded steps: what is recorded when, what makes it give up, and that the run is then as if it had never tried."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.data import Examples
from dlrun.data.augment import Augment
from dlrun.data.batches import Batches
from dlrun.data.windows import Windows
from dlrun.engines import recorded_steps as module
from dlrun.engines.recorded_steps import RecordedSteps
from dlrun.engines.recording import GaveUp
from dlrun.losses import MeanSquaredError
from dlrun.tasks import Batch, Logs
from dlrun.tasks.regression import Regression
from dlrun.training.average import ExponentialAverage
from dlrun.training.callbacks import Callback
from dlrun.training.precision import Precision
from dlrun.training.taking import one_step
from dlrun.training.trainer import Trainer
from dlrun.training.updater import ClipByNorm, Updater
from tape import Tape
from tiny import CPU, FACTS, AsIs, Halving, batches, make_trainer, plan, weights


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1))


class Both:
    """The same trainer twice: as written, and through recordings on a tape."""

    def __init__(
        self,
        sizes: tuple[int, ...] = (4, 1),
        wrap: Callable[[Any], Any] | None = None,
        before: GaveUp | None = None,
        **more: Any,
    ) -> None:
        self.notes: list[str] = []
        self.since: int | None = None
        self.tape = Tape()
        self.steps = RecordedSteps(self.tape, self._note, sizes, math.inf, before)
        self.written = self._trainer(one_step, wrap, **more)
        self.recorded = self._trainer(self.steps.take, wrap, **more)

    def _note(self, found: GaveUp) -> None:
        self.notes.append(found.reason)
        self.since = found.step

    @staticmethod
    def _trainer(take: Any, wrap: Callable[[Any], Any] | None, **more: Any) -> Trainer:
        torch.manual_seed(0)
        more = {
            name: value() if callable(value) and name not in ("average", "optimizer") else value
            for name, value in more.items()
        }
        model = more.pop("model", None) or network()
        sgd = partial(torch.optim.SGD, lr=0.0625, momentum=0.5, fused=True)
        optimizer = more.pop("optimizer", lambda model: sgd(model.parameters()))(model)
        updater = Updater(optimizer, torch.amp.GradScaler("cpu", enabled=False), [ClipByNorm(1.0)])
        algorithm = Backpropagation(
            model, Regression(MeanSquaredError(), FACTS, standardize=False), updater, Precision()
        )
        average = more.pop("average", None)
        parts: dict[str, Any] = {"plan": plan(40, 10, 5), "train": batches(18)}
        parts |= {"average": average(model)} if average else {}
        trainer = make_trainer(model=model, take=take, **(parts | more))
        trainer.algorithm, trainer.updater, trainer.take_step = algorithm, updater, algorithm.step
        if wrap is not None:
            trainer.take_step = wrap(trainer)
        return trainer

    def fit(self) -> Both:
        for trainer in (self.written, self.recorded):
            torch.manual_seed(1)
            trainer.fit()
        return self

    def same(self) -> bool:
        ours, theirs = weights(self.recorded), weights(self.written)
        clocks = ("examples_per_second", "data_wait")
        both = (self.recorded, self.written)
        means = [{name: value for name, value in t.latest.items() if name not in clocks} for t in both]
        return all(map(torch.equal, ours, theirs)) and means[0] == means[1]


def test_weights_logs_rates_and_gradients_are_those_of_the_steps_as_written() -> None:
    both = Both(schedule=Halving).fit()
    assert both.same()
    assert not both.notes
    gradients = [[p.grad for p in t.updater.parameters] for t in (both.written, both.recorded)]
    assert all(map(torch.equal, *gradients))


def test_a_kind_is_seen_once_rehearsed_once_recorded_once_and_then_replayed() -> None:
    """18 examples in batches of 4: four whole ones in a row and one of 2."""
    both = Both(sizes=(1,)).fit()
    assert (both.tape.rehearsals, both.tape.captures) == (2, 2)
    assert both.tape.replays == 40 - 2 * module.WARM


def test_several_steps_are_replayed_at_once_between_two_events() -> None:
    both = Both(plan=lambda: plan(60, 20, 20)).fit()
    assert both.same()
    assert both.tape.captures == 3
    assert both.tape.replays < 40


def test_a_long_step_is_recorded_alone() -> None:
    both = Both()
    both.steps.short = 0.0
    assert both.fit().same()
    assert {len(phases) for _, phases in both.steps.recordings} == {1}  # type: ignore[misc]


def test_between_turns_the_optimizer_is_ordinary() -> None:
    both = Both(schedule=Halving)
    both.recorded.begin()
    rows = both.recorded.take(both.recorded, iter(()))
    assert len(rows) == both.recorded.steps_left() == 5
    group = both.recorded.updater.optimizer.param_groups[0]  # type: ignore[attr-defined]
    assert group["lr"] == 0.0625 * 0.5**4 == both.recorded.updater.rate


def test_a_turn_ends_where_something_is_due_and_where_a_signal_arrived() -> None:
    both = Both()
    both.recorded.begin()
    both.recorded.stop.number = 2
    assert len(both.recorded.take(both.recorded, iter(()))) == 1


def test_a_turn_is_no_longer_than_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both()
    both.steps.seconds = module.INTERVAL / 2.5
    both.recorded.begin()
    assert len(both.recorded.take(both.recorded, iter(()))) == 2
    monkeypatch.setattr(module, "INTERVAL", -1.0)
    assert len(both.recorded.take(both.recorded, iter(()))) == 1


def test_the_moving_average_swapped_in_for_evaluation_moves_nothing() -> None:
    both = Both(average=lambda model: ExponentialAverage(model, 0.5)).fit()
    assert both.same()
    assert both.tape.captures == 3  # as many as without evaluations


def moved(trainer: Trainer) -> None:
    """Weights and the optimizer's state in other places, as after a checkpoint was loaded."""
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.clone()
    trainer.updater.load_state_dict(trainer.updater.state_dict())


def test_tensors_that_moved_are_recorded_anew() -> None:
    both = Both()
    for trainer in (both.written, both.recorded):
        torch.manual_seed(1)
        trainer.begin()
        while trainer.step < 20:
            trainer.advance(trainer.take(trainer, trainer._batches()))
        moved(trainer)
        trainer._train()
    assert both.same()
    assert both.tape.captures > 3


def test_a_checkpoint_of_a_recorded_run_goes_on_as_written_and_the_other_way_round() -> None:
    whole = Both().fit()
    for first, second in (("recorded", "written"), ("written", "recorded")):
        begun, goes_on = getattr(Both(plan=lambda: plan(20, 10, 5)), first), getattr(Both(), second)
        torch.manual_seed(1)
        begun.fit()
        state = begun.state_dict()
        assert all(isinstance(group["lr"], float) for group in state["updater"]["optimizer"]["param_groups"])
        goes_on.load_state_dict(state, None)
        goes_on.fit()
        assert all(map(torch.equal, weights(goes_on), weights(whole.written)))


def test_recordings_are_made_anew_after_another_one_failed() -> None:
    """A failed capture leaves the device's random stream to recordings that nobody may use any more."""
    both = Both()
    both.recorded.begin()
    while both.recorded.step < 20:
        both.recorded.advance(both.recorded.take(both.recorded, iter(())))
    before = both.tape.captures
    both.tape.faults += 1
    both.recorded._train()
    assert before < both.tape.captures <= 2 * before


def test_tensors_that_never_stay_are_not_recorded_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOVES", 1)

    class Moving(Callback):
        def on_step(self, trainer: Trainer, logs: Logs) -> None:
            moved(trainer)

    both = Both()
    for trainer in (both.written, both.recorded):
        trainer.callbacks.append(Moving())
    both.fit()
    assert both.same()
    assert both.notes == ["the tensors of the run do not stay where they are"]


def waiting(trainer: Trainer) -> Callable[[Batch], Logs]:
    """A planted fault: a step that asks the device for a number."""

    def step(batch: Batch) -> Logs:
        logs = trainer.algorithm.step(batch)
        logs["loss"].item()
        return logs

    return step


def counting(trainer: Trainer) -> Callable[[Batch], Logs]:
    """A planted fault: a step that does something else by what Python has counted, and tells nobody."""
    steps = iter(range(1000))

    def step(batch: Batch) -> Logs:
        if next(steps) % 2:
            batch = batch[0] * 2, batch[1]
        return trainer.algorithm.step(batch)

    return step


def changing(trainer: Trainer) -> Callable[[Batch], Logs]:
    """A planted fault: what is carried grows from step to step, but not in the rehearsal."""
    algorithm: Any = trainer.algorithm
    carried, rehearsed = {"memory": torch.zeros(1)}, []

    def load(state: dict[str, Any]) -> None:
        carried.update(state)

    algorithm.state_dict, algorithm.load_state_dict = lambda: dict(carried), load

    def step(batch: Batch) -> Logs:
        rehearsed.append(1)
        if len(rehearsed) == 3:
            carried["memory"] = torch.zeros(2)
        return Backpropagation.step(algorithm, batch)

    return step


def test_a_step_that_waits_for_the_device_is_found_in_the_rehearsal_and_undone() -> None:
    both = Both(wrap=waiting).fit()
    assert both.notes == ["called a synchronizing operation: item"]
    assert both.tape.captures == 0
    assert both.same()


def test_a_recording_that_fails_changes_nothing() -> None:
    both = Both(wrap=changing).fit()
    assert both.notes == ["what the algorithm carries from step to step changes its shape"]
    assert all(map(torch.equal, weights(both.recorded), weights(both.written)))


def test_a_hidden_count_is_what_the_comparison_finds() -> None:
    """The tape freezes Python as a graph does: without a phase the wrong kind of step is replayed."""
    assert not Both(wrap=counting).fit().same()


def test_a_count_that_the_algorithm_shows_without_phases_makes_it_give_up() -> None:
    both = Both()
    algorithm: Any = both.recorded.algorithm
    count = {"steps": 0}
    algorithm.state_dict, algorithm.load_state_dict = lambda: dict(count), count.update
    plain = both.recorded.take_step

    def step(batch: Batch) -> Logs:
        count["steps"] += 1
        return plain(batch)

    both.recorded.take_step = step
    both.fit()
    assert both.notes == ["the algorithm counts in Python and does not say what its next step will be"]
    assert both.same()
    assert count["steps"] == 40


def stumbling(trainer: Trainer) -> Any:
    """A step that fails where the short batch of an epoch is recorded, the third time that it is seen."""
    plain, calls = trainer.take_step, iter(range(1000))

    def step(batch: Batch) -> Logs:
        if len(batch[0]) == 2 and next(calls) == 2:
            raise RuntimeError("out of memory while recording")
        return plain(batch)

    return step


def nadam(model: nn.Module) -> torch.optim.Optimizer:
    """Ordinary it counts in main memory, lent on the device: the bits tell from which step on it was which."""
    return torch.optim.NAdam(model.parameters(), lr=0.1, foreach=True)


@pytest.fixture
def _nadam_lent_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["torch.optim.nadam"], "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


def gone_on(state: dict[str, Any], before: GaveUp | None, part: str = "recorded") -> Both:
    """Another process goes on from a checkpoint; in it the short batch may be recorded."""
    both = Both(optimizer=nadam, before=before)
    trainer = getattr(both, part)
    trainer.load_state_dict(copy.deepcopy(state), None)
    trainer.fit()
    return both


@pytest.mark.usefixtures("_nadam_lent_anywhere")
def test_a_run_is_resumed_to_its_bits_from_before_and_after_the_step_where_it_gave_up() -> None:
    states: dict[int, dict[str, Any]] = {}

    class Keeping(Callback):
        def on_step(self, trainer: Trainer, logs: Logs) -> None:
            states[trainer.step] = copy.deepcopy(trainer.state_dict())

    whole = Both(wrap=stumbling, optimizer=nadam)
    whole.recorded.callbacks = [Keeping()]
    torch.manual_seed(1)
    whole.recorded.fit()
    assert (whole.notes, whole.since) == (["out of memory while recording"], 14)
    wanted, found = weights(whole.recorded), GaveUp(14, "out of memory while recording")

    for step in (5, 10, 15, 20):
        resumed = gone_on(states[step], found)
        assert all(map(torch.equal, weights(resumed.recorded), wanted)), step
        assert (resumed.notes, resumed.since) == (whole.notes, max(step, 14))
        assert bool(resumed.tape.replays) == (step < 14)
    for step in (5, 10):  # planted: without what the first process has left, or as written all the way
        assert not all(map(torch.equal, weights(gone_on(states[step], None).recorded), wanted))
        assert not all(map(torch.equal, weights(gone_on(states[step], None, "written").written), wanted))


def test_an_error_of_the_step_itself_is_not_hidden() -> None:
    both = Both()
    plain, calls = both.recorded.take_step, iter(range(100))

    def step(batch: Batch) -> Logs:
        if next(calls) >= 1:
            raise RuntimeError("a fault of the model")
        return plain(batch)

    both.recorded.take_step = step
    with pytest.raises(RuntimeError, match="a fault of the model"):
        both.recorded.fit()


@pytest.mark.parametrize("every", [5, 6, 1000])  # an epoch has five batches: turns end on its border, or elsewhere
@pytest.mark.parametrize("sizes", [(1,), (4, 1)])
def test_streamed_batches_are_copied_to_where_the_recording_reads(sizes: tuple[int, ...], every: int) -> None:
    class Listed(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.inputs = torch.randn(18, 3, generator=torch.Generator().manual_seed(3))

        def __len__(self) -> int:
            return 18

        def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
            return self.inputs[place], self.inputs[place].sum().reshape(1)

    def streamed() -> Batches:
        return Batches(Listed(), preprocess=AsIs(), batch_size=4, device=CPU, seed=0)

    both = Both(sizes=sizes, train=streamed, plan=plan(40, every, 13))
    assert not both.recorded.train.resident
    assert both.fit().same()
    assert both.tape.replays > 20


def test_augmentation_and_whole_parts_are_gathered_inside() -> None:
    images = torch.rand(18, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    targets = images.sum((1, 2, 3)).reshape(-1, 1)

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(25, 1))

    for size in (4, 18):

        def train(size: int = size) -> Batches:
            return Batches(
                Examples(images, targets), preprocess=AsIs(), batch_size=size, device=CPU, seed=0,
                augment=Augment(crop=2, flip=True, erase=0.5),
            )  # fmt: skip

        assert Both(model=model, train=train, val=lambda: None).fit().same()


def test_endless_shapes_are_not_recorded_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KINDS", 1)
    both = Both(sizes=(1,)).fit()
    assert both.same()
    assert both.tape.captures == 1


def test_windows_are_gathered_with_the_epoch_s_shift() -> None:
    values = torch.randn(80, 1, generator=torch.Generator().manual_seed(0))
    part = Windows(values, torch.arange(0, 70, 4), 3, horizon=1, slack=3)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x.flatten(1)).unsqueeze(-1)
            return out

    def train() -> Batches:
        return Batches(part, preprocess=AsIs(), batch_size=4, device=CPU, seed=0)

    both = Both(model=Flat, train=train, val=lambda: None)
    assert both.fit().same()
    assert both.tape.replays > 10

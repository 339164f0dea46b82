"""Takes a trainer's steps through recordings: each kind of step is recorded once, then replayed, several at a time.

The first step of a kind runs as it is written, which makes the optimizer's state and warms every library up. The second
is a rehearsal: the same, while nothing may wait for the device. From the third on the kind is replayed. Whatever goes
wrong before that puts weights, optimizer and random streams back to where they were, and the run goes on without
recordings, with one sentence about why.

A kind is what Python decides in a step: the algorithm's phase and the form of the batch. Everything else that a step
reads or changes lies in tensors; those that an algorithm carries from step to step are copied back to where they were.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from dlrun.algorithms import Phased, updaters
from dlrun.engines.capturable import Lent
from dlrun.engines.feed import Feed, Gathered, Handed, Inputs
from dlrun.engines.recording import Columns, GaveUp, Recorder, Recording, Replay, Ungraphable, rows_of
from dlrun.engines.state_in_place import Snapshot, StateInPlace
from dlrun.tasks import Batch, Logs
from dlrun.training.taking import one_step
from dlrun.training.trainer import Trainer

INTERVAL = 0.25  # seconds of steps, at most, before signals, budget and progress are looked after
SIZES = (16, 4, 1)  # steps in one recording, where a step is so short that its launch counts
SHORT = 1e-3  # seconds
KINDS = 32  # recordings at most; data whose shapes differ from example to example has no end of them
WORTH = 4  # k steps are recorded together when as many times k are left: recording costs as much as taking them
MOVES = 16  # times that all recordings are made anew because a tensor has moved
WARM = 2  # steps of a kind before it is recorded

Note = Callable[[GaveUp], None]


class RecordedSteps:
    """The steps of one trainer.

    Args:
        recorder: makes the recordings.
        note: told once from where on and why the run goes on without recordings.
        sizes: steps in one recording, from the largest to 1.
        short: seconds under which a step is recorded with others.
        before: where an earlier process of the run gave up, and so this one does. Ordinary steps have other kernels.

    Attributes:
        given_up: why there are no recordings any more; empty as long as there are.
    """

    def __init__(
        self,
        recorder: Recorder,
        note: Note,
        sizes: Sequence[int] = SIZES,
        short: float = SHORT,
        before: GaveUp | None = None,
    ) -> None:
        self.recorder, self.note, self.sizes, self.short = recorder, note, tuple(sizes), short
        self.before, self.given_up = before, ""
        self.seconds: float | None = None  # of one step, on the device
        self.seen: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, Recording] = {}
        self.forgotten, self.faults = 0, 0  # times that all recordings were; the recorder's failures so far
        self.last: Recording | None = None
        self.lent: Lent | None = None
        self.repeated = 0  # steps of the turn in which it gave up that were ordinary already

    def take(self, trainer: Trainer, batches: Iterator[Batch]) -> Sequence[Logs]:
        """See ``dlrun.training.taking``."""
        if not self.given_up:
            self._begin(trainer, batches)
        if self.given_up or self.lent is None:
            return one_step(trainer, batches)
        left, until = self._at_most(trainer.steps_left()), time.perf_counter() + INTERVAL
        rows: list[Logs] = []
        self.recorder.pace()
        self.lent.lend()
        try:
            self._look()
            while len(rows) < left:
                rows += self._some(len(rows), left - len(rows))
                if self.given_up or trainer.stop or time.perf_counter() > until:
                    break
        finally:
            self.lent.give_back(trainer.factor(max(0, len(rows) - 1)))
            if self.given_up:
                self.lent.go_home()
        if self.given_up:
            self.note(GaveUp(trainer.step + len(rows) - self.repeated, self.given_up))
        if self.last is not None:
            for parameter, gradient in zip(trainer.updater.parameters, self.last.gradients, strict=True):
                parameter.grad = gradient
        return rows

    def _begin(self, trainer: Trainer, batches: Iterator[Batch]) -> None:
        """Make sure that steps can be recorded, or give up."""
        if self.before is not None and trainer.step >= self.before.step:
            self._give_up(Ungraphable(self.before.reason))
        elif self.lent is None:
            self._open(trainer, batches)
        if self.given_up:
            self.note(GaveUp(trainer.step, self.given_up))
            if self.lent is not None:
                self.lent.go_home()

    def _open(self, trainer: Trainer, batches: Iterator[Batch]) -> None:
        self.trainer, algorithm = trainer, trainer.algorithm
        device = trainer.updater.parameters[0].device
        self.phased = algorithm if isinstance(algorithm, Phased) else None
        try:
            if algorithm.ungraphable:
                raise Ungraphable(algorithm.ungraphable)
            self.lent = Lent(updaters(algorithm).values())
        except Ungraphable as reason:
            self._give_up(reason)
            return
        self.feed: Feed = Gathered(trainer.train, device) if trainer.train.resident else Handed(batches)
        self.inputs: dict[Hashable, Inputs] = {}
        self.state = StateInPlace(trainer)

    def _at_most(self, due: int) -> int:
        """Steps of one turn: none that would take the device much longer than the interval, or that come too late."""
        if self.before is not None:
            due = min(due, self.before.step - self.trainer.step)
        return due if self.seconds is None else max(1, min(due, int(INTERVAL / self.seconds)))

    def _look(self) -> None:
        """Forget the recordings when a tensor of the run has moved, or another recording failed."""
        moved, faults, self.faults = self.state.moved(), self.faults, self.recorder.faults
        if moved or faults != self.faults:
            self.forgotten += bool(self.recordings)
            self.recordings.clear()
            self.last = None
            if self.forgotten > MOVES:
                self._give_up(Ungraphable("the tensors of the run do not stay where they are"))

    def _some(self, ahead: int, left: int) -> list[Logs]:
        """As many of the next steps as one recording holds, or one step as it is written."""
        form, alike = self.feed.coming(self.trainer.step + ahead)
        longest = min(left, alike)
        for count in self._sizes(ahead, longest):
            phases = self._phases(count)
            key = (form, phases)
            if key in self.recordings or self._may_record(form, phases):
                return self._replayed(key, count, ahead)
        return self._as_written(form, ahead)

    def _sizes(self, ahead: int, longest: int) -> Sequence[int]:
        """From the largest that pays to 1; before the first measurement 1 alone."""
        if self.seconds is None or self.seconds > self.short:
            return (1,)
        total = self.trainer.plan.total_steps
        still = WORTH * longest if total is None else total - self.trainer.step - ahead
        return [count for count in self.sizes if count <= longest and (count == 1 or WORTH * count <= still)]

    def _phases(self, count: int) -> tuple[Hashable, ...]:
        """The phases of the next steps; an algorithm without phases has one."""
        return ((),) * count if self.phased is None else tuple(map(self.phased.phase, range(count)))

    def _may_record(self, form: Hashable, phases: Sequence[Hashable]) -> bool:
        warm = all(phase is not None and self.seen[form, phase] >= WARM for phase in set(phases))
        return warm and not self.given_up and len(self.recordings) < KINDS

    def _inputs(self, form: Hashable, count: int) -> Inputs:
        """The tensors that so many steps read, where they stay."""
        key = (form, count)
        if key not in self.inputs:
            assert self.lent is not None
            made = Inputs(self.feed.slot(form, count), count, len(list(self.lent.groups())))
            if len(self.inputs) >= 2 * KINDS:
                return made
            self.inputs[key] = made
        return self.inputs[key]

    def _load(self, inputs: Inputs, ahead: int) -> None:
        """Fill in the batches and rates of the next steps."""
        assert self.lent is not None
        self.feed.load(inputs.slot, self.trainer.step + ahead)
        factors = [self.trainer.factor(ahead + later) for later in range(inputs.count)]
        inputs.set_rates(self.lent.rates(factors))

    def _work(self, inputs: Inputs) -> Columns:
        """The steps themselves: what is recorded, and what runs while it is not."""
        assert self.lent is not None
        rows = []
        for place, rates in enumerate(inputs.rates.unbind()):
            self.lent.set_rates(rates)
            rows.append(self.trainer.take_step(self.feed.batch(inputs.slot, place)))
            self.trainer.average.update()
        return {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}

    def _as_written(self, form: Hashable, ahead: int) -> list[Logs]:
        """One step; the second of its kind is a rehearsal."""
        phase = () if self.phased is None else self.phased.phase(0)
        inputs = self._inputs(form, 1)
        self._load(inputs, ahead)
        work = partial(self._work, inputs)
        self.last = None
        if phase is not None and self.seen[form, phase] == WARM - 1 and len(self.recordings) < KINDS:
            try:
                columns = self._tried(partial(self.recorder.rehearse, work))
            except Ungraphable:
                return [self._once_more(inputs, ahead)]
        else:
            columns = work()
        self.seen[form, phase] += 1
        if not self.state.settle() and self.phased is None:
            self._give_up(Ungraphable("the algorithm counts in Python and does not say what its next step will be"))
        self._look()
        return rows_of(columns)

    def _replayed(self, key: tuple[Hashable, tuple[Hashable, ...]], count: int, ahead: int) -> list[Logs]:
        """The steps of one recording, which is made when there is none."""
        inputs = self._inputs(key[0], count)
        self._load(inputs, ahead)
        if key not in self.recordings:
            try:
                self.recordings[key] = self._tried(partial(self._recorded, inputs))
            except Ungraphable:
                return [self._once_more(inputs, ahead)]
        self.last = self.recordings[key]
        if self.seconds is None:
            self._timed(self.last.replay)
        else:
            self.last.replay()
        if self.phased is not None:
            self.phased.count(count)
        return rows_of({name: column.clone() for name, column in self.last.columns.items()})

    def _recorded(self, inputs: Inputs) -> Recording:
        def work() -> Columns:
            columns = self._work(inputs)
            before.copy_back()
            return columns

        before = self.state.held()
        try:
            replay, columns = self.recorder.capture(work)
            gradients = [parameter.grad for parameter in self.trainer.updater.parameters]
        finally:
            before.put_back()
        return Recording(replay, inputs, columns, gradients)

    def _timed(self, replay: Replay) -> None:
        """Replay and measure; once, for it waits for the device."""
        self.recorder.wait()
        started = time.perf_counter()
        replay()
        self.recorder.wait()
        self.seconds = max(time.perf_counter() - started, 1e-9)

    def _tried(self, work: Callable[[], Any]) -> Any:
        """What the work gives; Ungraphable when it fails, everything as it was and the optimizer ordinary again."""
        assert self.lent is not None
        self.lent.give_back(self.trainer.factor())
        before = None
        try:
            before = Snapshot(self.trainer)
            self.lent.lend()
            return work()
        except Exception as error:  # the ordinary step that follows meets the same error, if it is not of the recording
            self.lent.give_back(self.trainer.factor())
            if before is not None:
                before.put_back()
            self.lent.go_home()
            reason = Ungraphable.of(error)
            self._give_up(reason)
            raise reason from error

    def _once_more(self, inputs: Inputs, ahead: int) -> Logs:
        """The step that could not be recorded, as it is written."""
        self.repeated = 1
        self.trainer.updater.set_factor(self.trainer.factor(ahead))
        logs = self.trainer.take_step(self.feed.batch(inputs.slot, 0))
        self.trainer.average.update()
        return logs

    def _give_up(self, reason: Ungraphable) -> None:
        self.given_up = str(reason)
        self.recordings.clear()
        self.last = None

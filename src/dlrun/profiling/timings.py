"""The measurement: blocks of a real training, in turn as it is and with its phases stamped."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from statistics import median

from torch import Tensor

from dlrun.profiling.clock import ROOT, Block, Clock, Cost, Key, Meter, calibrate
from dlrun.profiling.phases import EVALUATION, ROW, SAVE, Instrument, quiet
from dlrun.training.callbacks import Callback, Saver
from dlrun.training.trainer import Trainer

PAIRS, FEWEST_PAIRS = 10, 3
FEWEST_ROWS = 3
MOST_STEPS = 2000  # of one block: its stamps are kept until it ends
WARM_UP = 0.1  # of the time
NEVER = 10**12
PICTURES = "TensorBoard"  # drawn now and then, within a share of the time that tracking.share limits
Script = Callable[[Trainer], Iterator[int]]


@dataclass(frozen=True)
class Limits:
    """How long to measure.

    Attributes:
        seconds: for the blocks together, where ``steps`` does not say it.
        steps: steps of each kind, as they are and with stamps.
    """

    seconds: float = 5.0
    steps: int | None = None


@dataclass(frozen=True)
class Span:
    """A median with its quartiles."""

    middle: float
    low: float
    high: float


def span(values: list[float]) -> Span:
    """Median and quartiles of at least one value; of few, the nearest ones."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Span(median(ordered), ordered[round(0.25 * last)], ordered[round(0.75 * last)])


@dataclass(frozen=True)
class Timings:
    """What was measured of a training. Steps are without their rows, evaluations and checkpoints, timed one by one.

    Attributes:
        bare: seconds of a step, nothing stamped within it.
        stamped: seconds of a step whose phases are stamped.
        cost: seconds of the stamping in a step, by calibration, at most as much as steps became slower by it.
        phases: seconds of a stamped step, without that cost, by phase.
        calls: how often a phase came in a step.
        rows: seconds of one logged row, by who takes them; medians, without the histograms drawn now and then.
        evaluation: seconds of one evaluation, by who takes them, without pictures; empty where nothing is held out.
        evaluation_is_first: it is the first one, which may have taken longer; a second would have taken too long.
        checkpoint: seconds of one; None where the run writes none.
        steps: measured as they are, and as many again with stamps.
        blocks: of either kind.
        first_step: seconds up to the end of the first step, which prepares much.
        start: seconds of what happens before the first evaluation: files opened, first pictures drawn.
    """

    bare: Span
    stamped: Span
    cost: float
    phases: dict[Key, Span]
    calls: dict[Key, float]
    rows: dict[str, float]
    evaluation: dict[str, float]
    evaluation_is_first: bool
    checkpoint: float | None
    steps: int
    blocks: int
    first_step: float
    start: float


class Conductor(Callback):
    """Decides after each step what is measured next. The script runs between two steps, outside of every block.

    Args:
        script: yields how many steps to let pass; its end is the training's.
    """

    def __init__(self, script: Script) -> None:
        self.rows = 0
        self._begin, self._until = script, 0
        self._script: Iterator[int] | None = None

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """Count the rows."""
        self.rows += 1

    def on_step(self, trainer: Trainer, logs: dict[str, Tensor]) -> None:
        """Go on with the script when its steps have passed."""
        if trainer.step < self._until:
            return
        if self._script is None:
            self._script = self._begin(trainer)
        try:
            self._until = trainer.step + next(self._script)
        except StopIteration:
            self._until = NEVER
            trainer.end("profiled")


def measure(trainer: Trainer, limits: Limits, meter: Meter, after: Script | None = None) -> Timings:
    """Train a short while and time it.

    The trainer's own loop runs, with its engine, callbacks and data; only its end and its evaluations are put off, and
    an evaluation, a row and a checkpoint are asked for.

    Args:
        trainer: built, not yet begun; of no use afterwards.
        after: what to do after the measurement while the training goes on; yields how many steps to let pass.
    """
    return _Measurement(trainer, limits, meter, after).run()


class _Measurement:
    def __init__(self, trainer: Trainer, limits: Limits, meter: Meter, after: Script | None) -> None:
        self.trainer, self.limits, self.meter, self.after = trainer, limits, meter, after
        self.clock, self.conductor = Clock(meter), Conductor(self.script)
        self.saver = next((c for c in trainer.callbacks if isinstance(c, Saver)), None)
        trainer.callbacks.append(self.conductor)
        self.instrument = Instrument(trainer, self.clock, unseen=[self.conductor])
        self.bare: list[Block] = []
        self.stamped: list[Block] = []
        self.saves: list[Block] = []  # asked for
        self.evaluations: list[dict[str, float]] = []
        self.rows: list[dict[str, float]] = []
        self.first_step = self.ready = 0.0

    def run(self) -> Timings:
        trainer, usual = self.trainer, self.trainer.plan
        total = max(usual.total_steps or 0, NEVER)
        trainer.plan = replace(usual, total_steps=total, budget=None, early_stop=None, evaluate_every=NEVER)
        try:
            self.clock.start()
            trainer.guarded(trainer.begin)
            begun = self.clock.stop(0)
            self._evaluated(begun)
            self.ready = time.perf_counter()
            trainer.guarded(trainer._train)
        finally:
            self.instrument.close()
        return self._result(start=begun.amounts[ROOT])

    def script(self, trainer: Trainer) -> Iterator[int]:
        """Warm up; pairs of blocks; the occasions; what comes after."""
        self.meter.settle()
        self.first_step = time.perf_counter() - self.ready
        each = yield from self._warm_up(trainer)
        self.cost = calibrate(self.meter)
        pairs, steps = lengths(self.limits, each, trainer.plan.log_every)
        for _ in range(pairs):
            self.bare.append((yield from self._block(steps, detailed=False)))
            self.instrument.install()
            try:
                rows = self.conductor.rows
                self.stamped.append((yield from self._block(steps, detailed=True)))
                self._logged(self.stamped[-1], self.conductor.rows - rows)
            finally:
                self.instrument.remove()
        yield from self._occasions()
        if self.after is not None:
            yield from self.after(trainer)

    def _warm_up(self, trainer: Trainer) -> Generator[int, None, float]:
        """Some steps, up to the end of an epoch, whose last batch has a size of its own; the seconds of the last."""
        started = time.perf_counter()
        yield 2
        most = min(len(trainer.train) + 2, self.limits.steps or MOST_STEPS)
        while time.perf_counter() - started < WARM_UP * self.limits.seconds and trainer.step < most:
            yield 1
        self.meter.settle()
        started, before = time.perf_counter(), trainer.step
        yield max(1, min(5, most))
        self.meter.settle()
        return (time.perf_counter() - started) / (trainer.step - before)

    def _block(self, steps: int, detailed: bool) -> Generator[int, None, Block]:
        before = self.trainer.step
        self.clock.start(detailed)
        yield steps
        return self.clock.stop(self.trainer.step - before)

    def _occasions(self) -> Iterator[int]:
        """An evaluation, a checkpoint, and rows where there were few, each with everybody who watches."""
        trainer, clock, saver = self.trainer, self.clock, self.saver
        self.instrument.install()
        try:
            while len(self.rows) < FEWEST_ROWS:
                yield 1
                clock.start()
                trainer.log()
                self._logged(clock.stop(0), 1)
            first = sum(self.evaluations[0].values()) if self.evaluations else None
            if first is not None and first <= max(2.0, self.limits.seconds):
                clock.start()
                trainer.evaluate()
                self._evaluated(clock.stop(0))
            if saver is not None:
                clock.start()
                saver.save(trainer)
                self.saves.append(clock.stop(0))
        finally:
            self.instrument.remove()

    def _logged(self, block: Block, rows: int) -> None:
        if rows:
            found = {name: amount / rows for (group, name), amount in block.amounts.items() if group == ROW}
            self.rows.append(found)

    def _evaluated(self, block: Block) -> None:
        amounts = block.amounts.items()
        found = {name: n for (group, name), n in amounts if group == EVALUATION and name != PICTURES}
        if found and self.trainer.val is not None:
            self.evaluations.append(found)

    def _result(self, start: float) -> Timings:
        every, key = [*self.bare, *self.stamped, *self.saves], (SAVE, "checkpoints")
        saves = sum(block.spans[key] for block in every)
        return replace(
            summed(self.bare, self.stamped, self.cost),
            rows={name: median(row.get(name, 0.0) for row in self.rows) for name in self.rows[0]},
            evaluation=self.evaluations[-1] if self.evaluations else {},
            evaluation_is_first=len(self.evaluations) == 1,
            checkpoint=sum(block.amounts[key] for block in every) / saves if saves else None,
            first_step=self.first_step,
            start=start,
        )


def lengths(limits: Limits, each: float, row: int) -> tuple[int, int]:
    """Pairs of blocks, and steps of a block: whole rows of so many steps where that is short enough.

    Args:
        each: seconds of a step, roughly.
    """
    if limits.steps is not None:
        pairs = min(PAIRS, limits.steps)
        return pairs, limits.steps // pairs
    room = limits.seconds / (2 * PAIRS) / max(each, 1e-7)
    if room < 1:
        return max(FEWEST_PAIRS, round(PAIRS * room)), 1
    steps = min(MOST_STEPS, int(room))
    return PAIRS, steps - steps % row if steps >= row else steps


def summed(bare: list[Block], stamped: list[Block], cost: Cost) -> Timings:
    """The timings of steps without any occasion."""
    whole, parted = (span([_per_step(block) for block in kind]) for kind in (bare, stamped))
    costs = median(sum(cost.of(b, key) for key in b.amounts if quiet(key)) / b.steps for b in stamped)
    share = min(1.0, max(0.0, parted.middle - whole.middle) / max(costs, 1e-12))
    return Timings(
        bare=whole,
        stamped=parted,
        cost=share * costs,
        phases=_phases(stamped, cost, share),
        calls={key: median(b.spans[key] / b.steps for b in stamped) for b in stamped for key in b.spans},
        rows={},
        evaluation={},
        evaluation_is_first=False,
        checkpoint=None,
        steps=sum(block.steps for block in bare),
        blocks=len(bare),
        first_step=0.0,
        start=0.0,
    )


def _per_step(block: Block) -> float:
    return sum(amount for key, amount in block.amounts.items() if quiet(key)) / block.steps


def _phases(blocks: list[Block], cost: Cost, share: float) -> dict[Key, Span]:
    """Seconds per step of each phase of every step, without this share of the stamps' cost."""
    keys = sorted({key for block in blocks for key in block.amounts if quiet(key)})
    return {key: span([(b.amounts[key] - share * cost.of(b, key)) / b.steps for b in blocks]) for key in keys}

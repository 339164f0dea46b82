"""K runs in lockstep: their steps are made together, everything else by each run's own Trainer.

Between two events (a logged row, an evaluation, a checkpoint, the end) only stacked tensors move. At an event every
lane's Trainer is told of the steps it has made and does what is due, with the lane's own random streams in place, as
if it had made them alone. A lane that ends, for whatever reason, is dropped; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from dlrun.packing.batches import packed_batches
from dlrun.packing.step import PackedStep
from dlrun.tasks import Logs
from dlrun.training.randomness import random_state, restore_random_state
from dlrun.training.trainer import Trainer

INTERVAL = 0.5  # seconds after which progress, signals and checkpoints are looked after, whatever else is due
WORTH_COMPILING = 50_000  # steps of single trials that must be left: compilation takes as long as about so many

# What becomes of a lane: why its run ended, or the error that ended it.
Ended = Callable[[int, "str | BaseException"], None]


@dataclass
class Lane:
    """One run of a pack.

    Attributes:
        number: its place among the runs that the pack began with.
        trainer: its own Trainer.
        random: the state of its random streams while other lanes have the floor.
        generator: torch's CPU stream of the lane, from which its draws in a step come.
    """

    number: int
    trainer: Trainer
    random: dict[str, Any]
    generator: Generator

    @contextmanager
    def floor(self) -> Iterator[None]:
        """The process's random streams are this lane's; those of a GPU belong to the pack."""
        restore_random_state(self.random | {"torch": self.generator.get_state(), "cuda": []})
        try:
            yield
        finally:
            self.random = random_state()
            self.generator.set_state(self.random["torch"])


class Pack:
    """Runs of one architecture, one data set and one length, trained together.

    Args:
        trainers: one per run, all at the same step.
        randoms: the state of each run's random streams.
        ended: told of every lane that ends, with the lane's random streams in place.

    Raises:
        Unpackable: the runs cannot make their steps together.
    """

    def __init__(self, trainers: Sequence[Trainer], randoms: Sequence[dict[str, Any]], ended: Ended) -> None:
        self.lanes = [
            Lane(number, trainer, random, _generator(random))
            for number, (trainer, random) in enumerate(zip(trainers, randoms, strict=True))
        ]
        self.ended = ended
        self.step = PackedStep([t.algorithm for t in trainers], [t.average for t in trainers])
        self._pending: list[Logs] = []
        self._compiled = False
        self._restart()

    def compile(self, wanted: bool) -> None:
        """Whether the step is to be compiled; once more for those that are left, when enough is left to do."""
        self._compiled = wanted
        total, done = self.lanes[0].trainer.plan.total_steps, self.lanes[0].trainer.step
        left = WORTH_COMPILING if total is None else (total - done) * len(self.lanes)
        self.step.gradient.compiles = wanted and left >= WORTH_COMPILING

    def train(self) -> None:
        """Train until every lane has ended; nothing is returned, for ``ended`` was told."""
        self._drop([lane for lane in self.lanes if self._over(lane, lane.trainer.begin)])
        while self.lanes:
            self._steps()
            self._event()

    def _steps(self) -> None:
        """Steps until something is due for some lane."""
        count, due = min(lane.trainer.steps_left() for lane in self.lanes), time.perf_counter() + INTERVAL
        stop = self.lanes[0].trainer.stop
        for ahead in range(count):
            factors = self._factors(ahead)
            self._pending.append(self.step(next(self._batches), factors, self._generators))
            if stop or time.perf_counter() >= due:
                break
        for lane, factor in zip(self.lanes, factors, strict=True):
            lane.trainer.updater.set_factor(factor)

    def _factors(self, ahead: int) -> tuple[float, ...]:
        """The factor of every lane's schedule; asked once for lanes whose schedules are the same."""
        found = [trainer.factor(ahead) for trainer in self._schedules]
        return tuple(found[place] for place in self._places)

    def _event(self) -> None:
        """Tell every lane's Trainer of the steps made since the last event, and let it do what is due."""
        names = self._pending[0]
        rows = {name: torch.stack([logs[name] for logs in self._pending]) for name in names}  # (steps, K)
        self._pending.clear()
        columns = {name: values.unbind(1) for name, values in rows.items()}
        over = []
        for place, lane in enumerate(self.lanes):
            logs = _rows({name: column[place] for name, column in columns.items()})
            if self._over(lane, partial(lane.trainer.advance, logs)):
                over.append(lane)
        self._drop(over)

    def _over(self, lane: Lane, what: Callable[[], str | None]) -> bool:
        """Let a lane do something; whether its run is over by it."""
        with lane.floor():
            try:
                reason = lane.trainer.guarded(what)
                if reason is None:
                    return False
                self.ended(lane.number, lane.trainer.guarded(partial(lane.trainer.finish, reason)))
            except Exception as error:  # of this lane alone: the others go on
                self.ended(lane.number, error)
        return True

    def _drop(self, over: Sequence[Lane]) -> None:
        kept = [place for place, lane in enumerate(self.lanes) if lane not in over]
        if len(kept) == len(self.lanes):
            return
        self.lanes = [self.lanes[place] for place in kept]
        if self.lanes:
            self.step.keep(kept)
            self._restart()

    def _restart(self) -> None:
        """What depends on which lanes there are."""
        trainers = [lane.trainer for lane in self.lanes]
        self._generators = [lane.generator for lane in self.lanes] if _on_cpu(trainers[0]) else None
        self._batches = packed_batches([trainer.train for trainer in trainers], trainers[0].step)
        kinds = [_schedule_of(trainer) for trainer in trainers]
        distinct = list(dict.fromkeys(kinds))
        self._schedules = [trainers[kinds.index(kind)] for kind in distinct]
        self._places = [distinct.index(kind) for kind in kinds]
        self.compile(self._compiled)


def _generator(random: dict[str, Any]) -> Generator:
    generator = Generator()
    generator.set_state(random["torch"])
    return generator


def _on_cpu(trainer: Trainer) -> bool:
    return trainer.updater.parameters[0].device.type == "cpu"


def _schedule_of(trainer: Trainer) -> tuple[object, ...]:
    """What decides a schedule's factor: equal for two lanes only if theirs always agree."""
    schedule, plan = trainer.schedule, trainer.plan
    if schedule.state_dict() or plan.budget is not None:  # it watches results, or the clock
        return (id(trainer),)
    return type(schedule), repr(sorted(vars(schedule).items())), plan.total_steps


def _rows(columns: dict[str, Tensor]) -> list[Logs]:
    """Columns (steps,) as one dict of 0-d tensors per step."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*(c.unbind() for c in columns.values()), strict=True)
    ]

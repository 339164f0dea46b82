"""Which other ways of taking the step are worth trying in an experiment, and how each is set up."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn

from dlrun.build import Experiment
from dlrun.data.batches import Batches
from dlrun.engines.auto import Auto
from dlrun.engines.compiled import Compiled
from dlrun.engines.take_and_view import Records, take_and_view
from dlrun.errors import DlrunError
from dlrun.loading import Loaded, make_batches
from dlrun.packing.flat import Unpackable
from dlrun.profiling.sources import try_sources
from dlrun.profiling.surroundings import Live
from dlrun.profiling.timings import NEVER, Span
from dlrun.profiling.trials import Trial, Trials, Way, compare, endless
from dlrun.sweeps.measuring import measure as measure_pack
from dlrun.tasks import Batch
from dlrun.training.average import NoAverage
from dlrun.training.plan import Plan
from dlrun.training.precision import Precision
from dlrun.training.signals import StopFlag
from dlrun.training.trainer import Trainer

LONGEST_STEP = 0.5  # seconds; with longer steps the trials would take minutes
HELD = 4  # batches that the trials take again and again where the data stream
PACKED = 8
COMPILING, PACKING, READING = 30.0, 2.0, 5.0  # seconds, roughly, for the line of progress
MOST_PACKED = 2**22  # parameters of all of them
FORMATS = {"bfloat16": "bf16", "tfloat32": "tf32"}
LARGER = "a larger batch trains differently: its best optimizer.lr is another, usually a larger one"
ROUNDED = "products are rounded to fewer digits: compare the accuracy"


@dataclass(frozen=True)
class Subject:
    """What is tried.

    Attributes:
        model: as it began its training.
        step: seconds of a step in the run.
        waits: whether it waits for its data much of the time.
    """

    experiment: Experiment
    loaded: Loaded
    trainer: Trainer
    model: nn.Module
    step: float
    waits: bool

    def built(self, experiment: Experiment) -> tuple[nn.Module, Any]:
        """A copy of the network, and the algorithm on it."""
        model = copy.deepcopy(self.model)
        model.train()
        return model, experiment.algorithm(model)

    def way(self, *words: str, **changes: Any) -> Way:
        """A way with other parts of the experiment: ``precision``, ``engine`` or ``batch_size``."""
        experiment = replace(self.experiment, **changes)
        train, batches, each = self._batches(experiment)
        trainer = self._trainer(experiment, train)

        def take() -> int:
            taken = len(trainer.take(trainer, batches))
            trainer.step += taken
            return taken

        within: Callable[[], AbstractContextManager[object]] = nullcontext
        if "precision" in changes:
            within = partial(_format, experiment.precision, self.experiment.precision)
        return Way(words, take, each, within)

    def _trainer(self, experiment: Experiment, train: Batches) -> Trainer:
        """A trainer whose steps are taken as in the run, by the engine if it takes them, and nothing beside them."""
        model, algorithm = self.built(experiment)
        engine = take_and_view(experiment.engine, experiment.device, experiment.viewed, lambda gave_up: None)
        task, settings = experiment.task, experiment.settings
        return Trainer(
            model=model,
            task=task,
            facts=self.loaded.splits.facts,
            algorithm=algorithm,
            take_step=experiment.engine.prepare(algorithm),
            schedule=experiment.schedule,
            average=NoAverage(),
            precision=experiment.precision,
            train=train,
            val=None,
            plan=Plan(NEVER, None, NEVER, NEVER),
            goal=settings.goal(task.monitor, task.metric_names()),
            stop=StopFlag(),
            take=engine.take,
        )

    def _batches(self, experiment: Experiment) -> tuple[Batches, Iterator[Batch], float]:
        """Batches without end, and how many examples one has; of data that stream the same few, read beforehand."""
        train, times = self.loaded.train, experiment.batch_size // self.experiment.batch_size
        if train.workers is not None:
            few = list(islice(train.epoch(0), HELD * times))
            joined = [_joined(few[i : i + times]) for i in range(0, len(few) - times + 1, times)]
            return train, cycle(joined), sum(len(batch[0]) for batch in joined) / len(joined)
        if times > 1:
            made = make_batches(experiment, self.loaded.splits, "train")
            assert made is not None, "there is a training part"
            train = made
        return train, endless(train.epoch), train.size / len(train)


def _joined(batches: list[Batch]) -> Batch:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def trying(compiles: bool, seconds: float, streams: bool) -> float:
    """Seconds that ``try_ways`` is expected to take."""
    return compiles * COMPILING + seconds + PACKING + streams * READING if seconds else 0.0


def try_ways(subject: Subject, compiles: bool, seconds: float, live: Live) -> Trials:
    """Measure what might be faster: threads, batch, number format, a pack; compilation where it is asked for."""
    found = Trials()
    if subject.step > LONGEST_STEP:
        found.left_out.append(f"other settings were not tried: a step takes {subject.step:.2g} s")
        return found
    device = subject.experiment.device
    present = subject.way()
    ways = _threads(present) if device.type == "cpu" else []
    if isinstance(subject.experiment.engine, Compiled):
        found.left_out.append("neither batch nor number format were varied: each takes a compilation of its own")
    else:
        ways += [*_larger(subject), *_formats(subject), *_recorded(subject)]
    if compiles:
        live.turn_to(COMPILING)
        ways += _compiled(subject, found)
    if ways:
        live.turn_to(seconds)
        found.tried = compare(present, ways, device, seconds, live.reached)
        doubled = next((t for t in found.tried if t.words[0].startswith("trainer.batch_size=")), None)
        if doubled is not None and doubled.gain.middle <= 2:  # t(n) = fixed + n each: fixed / t(1) = 2 - t(2) / t(1)
            found.fixed = max(0.0, 2 - 2 / doubled.gain.middle)
    live.turn_to(PACKING)
    found.tried += _pack(subject, found)
    if subject.waits:
        live.turn_to(READING)
        found.sources = try_sources(subject.experiment, subject.loaded, cores())
    return found


def _threads(present: Way) -> list[Way]:
    """One thread, or all of them."""
    now = torch.get_num_threads()
    return [
        replace(present, words=(f"trainer.threads={count}",), within=partial(_with_threads, count, now))
        for count in sorted({1, cores()} - {now})
    ]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _with_threads(count: int, before: int) -> Iterator[None]:
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _format(precision: Precision, before: Precision) -> Iterator[None]:
    precision.prepare()
    try:
        yield
    finally:
        before.prepare()


def _larger(subject: Subject) -> list[Way]:
    experiment = subject.experiment
    size = 2 * experiment.batch_size
    train = subject.loaded.train
    if experiment.full_batch or size > train.size or train.batch_size == 1 or len(train) < 2:
        return []
    return [replace(subject.way(f"trainer.batch_size={size}", batch_size=size), caution=LARGER)]


def _formats(subject: Subject) -> list[Way]:
    """Fewer digits than the present format has."""
    experiment = subject.experiment
    if experiment.precision.dtype not in ("float32", "tfloat32"):
        return []
    wanted = ["bfloat16"]
    if experiment.device.type == "cuda" and experiment.precision.dtype == "float32":
        wanted.append("tfloat32")
    return [
        replace(subject.way(f"precision={FORMATS[name]}", precision=Precision(name)), caution=ROUNDED)
        for name in wanted
    ]


def _recorded(subject: Subject) -> list[Way]:
    """Whole steps recorded and replayed, where the run's engine does not do so on a GPU."""
    experiment = subject.experiment
    on_device = experiment.device.type == "cuda"
    if not on_device or isinstance(experiment.engine, Records) or subject.trainer.algorithm.ungraphable:
        return []
    return [subject.way("engine=auto", engine=Auto())]


def _compiled(subject: Subject, found: Trials) -> list[Way]:
    """The compiled step, once it has compiled."""
    if isinstance(subject.experiment.engine, Compiled):
        return []
    refusal = Compiled().refusal(type(subject.trainer.algorithm), subject.experiment.device)
    if refusal:
        found.left_out.append(f"engine=compile {refusal}")
        return []
    try:
        way = subject.way("engine=compile", engine=Compiled(batch_size=subject.experiment.batch_size))
        way.take()
    except Exception as error:  # whatever the compiler cannot do
        found.left_out.append(f"engine=compile does not work here: {str(error).splitlines()[0][:200]}")
        return []
    return [way]


def _pack(subject: Subject, found: Trials) -> list[Trial]:
    """Trials that differ in their seed, trained as one stacked network."""
    experiment = subject.experiment
    parameters = sum(p.numel() for p in subject.model.parameters())
    if subject.trainer.algorithm.unpackable or PACKED * parameters > MOST_PACKED or subject.step > LONGEST_STEP / 10:
        return []
    seeds = [replace(experiment.settings, seed=seed) for seed in range(PACKED)]
    try:
        pace = measure_pack([replace(experiment, settings=settings) for settings in seeds], subject.loaded, None)
    except (Unpackable, DlrunError, RuntimeError) as error:
        found.left_out.append(f"no pack was tried: {str(error).splitlines()[0][:200]}")
        return []
    gain = min(pace.alone, subject.step) / pace.packed
    words = (f"seeds={PACKED}", "launcher=packed")
    return [Trial(words, Span(gain, gain, gain), pace.packed, f"for sweeps: {PACKED} trials trained as one")]

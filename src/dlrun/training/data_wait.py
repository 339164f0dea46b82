"""What a run whose data streams needs beside: a word at its end on who waited for whom, and an end for the workers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.data.batches import Batches
from dlrun.data.facts import Facts
from dlrun.tasks import Evaluation
from dlrun.training.callbacks import Callback, Reporter

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer

WORTH_SAYING = 0.2
MOST_HELD = 0.5  # of the memory that is free: data that would take more are better streamed
GIB = 2**30


class DataWait(Callback):
    """Adds up the waits of the logged rows; a note at the end when they were over a fifth of the time.

    ``parts`` are the batches of the run, whose workers end with it.
    """

    def __init__(
        self,
        reporter: Reporter,
        parts: Sequence[Batches],
        workers: int,
        cores: int | None = None,
        free: float | None = None,
    ) -> None:
        self.reporter, self.parts, self.workers = reporter, parts, workers
        self.cores = cores or os.cpu_count() or 1
        self.free = free_memory() if free is None else free
        self.waited = self.seconds = 0.0
        self.step = 0

    def on_start(self, trainer: Trainer) -> None:
        """A resumed run counts from its step on."""
        self.step = trainer.step

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """Add the row's seconds, and those of them that were waited."""
        seconds = (trainer.train.seen(trainer.step) - trainer.train.seen(self.step)) / row["examples_per_second"]
        self.step = trainer.step
        self.seconds += seconds
        self.waited += seconds * row.get("data_wait", 0.0)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """The test part is read last."""
        if evaluation.split == "test":
            self._close()

    def on_end(self, trainer: Trainer) -> None:
        """The note."""
        self._close()
        share = self.waited / self.seconds if self.seconds else 0.0
        if share > WORTH_SAYING:
            helps = remedies(trainer.facts, self.workers, self.cores, self.free)
            self.reporter.note(f"the training waited for its data {share:.0%} of the time; what helps: {helps}")

    def _close(self) -> None:
        for batches in self.parts:
            batches.close()


def data_wait(parts: Sequence[Batches | None], reporter: Reporter) -> list[Callback]:
    """The callback, for parts that stream; the training part is the first."""
    there = [part for part in parts if part is not None and part.workers is not None]
    return [DataWait(reporter, there, max(part.workers or 0 for part in there))] if there else []


def remedies(facts: Facts, workers: int, cores: int, free: float) -> str:
    """What would make the data come faster, in the order of how much it helps; ``free`` bytes of memory."""
    found = []
    whole = math.prod(facts.input_shape) * sum(facts.sizes.values()) / GIB  # of images, a byte for each value
    if facts.kind == "image" and whole < MOST_HELD * free / GIB:
        found.append(f"data.memory={math.ceil(whole * 10) / 10:.1f} reads the images whole, once")
    if workers < cores:
        found.append(f"trainer.workers={cores}, as many as there are cores")
    if facts.kind == "image":
        found.append("a smaller data.size, or files stored near that size")
    return "; ".join(found) or "a faster disk, or more cores"


def free_memory() -> float:
    """Bytes of memory that could be had now: the system's word, within the container's limit; 0 where neither is known.

    Files the system keeps in memory count as free, for it lets go of them.
    """
    said = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit = [line for line in _lines("/sys/fs/cgroup/memory.max") if line.strip().isdigit()]
    return min([float(kilobytes) * 1024 for kilobytes in said] + [float(most) for most in limit], default=0.0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

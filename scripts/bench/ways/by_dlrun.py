"""``dlrun train`` in this process: ``dlrun.run.train`` as the command line calls it, with all that a run writes.

History, TensorBoard, progress and checkpoints are on. The time is run.json's ``timings.fit_seconds``, from before the
first evaluation to the end of training, less the evaluations with what is written of them, since no other way evaluates
while it trains. (``observability`` counts them.)
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prepared import limits
from work import Clock, Trained, Work


def train(work: Work, clock: Clock) -> Trained:
    from dlrun.config import compose
    from dlrun.console import Plain
    from dlrun.run import train as run_train
    from dlrun.training.callbacks import Callback

    class Watch(Callback):
        """Keeps the trainer, and tells the clock of the first row."""

        trainer: Any = None

        def on_log(self, trainer: Any, row: dict[str, float]) -> None:
            clock.late(trainer.step)

        def on_end(self, trainer: Any) -> None:
            self.trainer = trainer

    watch, folder = Watch(), Path(tempfile.mkdtemp(dir=work.scratch))
    command = ["dlrun", "train", *overrides(work)]
    with evaluations(clock) as evaluated:
        run_train(
            compose(command[2:]), root=folder, command=command, reporter=Plain(io.StringIO()), trusted=(),
            callbacks=[watch],
        )  # fmt: skip
    (path,) = folder.rglob("run.json")
    timings = json.loads(path.read_text())["timings"]
    shutil.rmtree(folder)
    clock.stop_at(evaluated[-1][0])
    clock.seconds = timings["fit_seconds"] - sum(ended - started for started, ended in evaluated)
    return Trained(watch.trainer.model, timings["steps"], {"fit_seconds": timings["fit_seconds"]})


def overrides(work: Work) -> list[str]:
    """The words after ``dlrun train``; those of ``--dlrun`` take the place of others of the same key."""
    job = work.job
    words = [
        *job["words"],
        *limits(work.steps_per_epoch * work.batch),
        f"trainer.epochs={work.epochs}",
        f"trainer.evaluate_steps={work.steps}",
        f"trainer.seed={job['seed']}",
        f"trainer.device={work.device.type}",
        *([f"trainer.threads={job['threads']}"] if job["threads"] else []),
        *job["dlrun"],
    ]
    return list({word.partition("=")[0]: word for word in words}.values())


@contextmanager
def evaluations(clock: Clock) -> Iterator[list[tuple[float, float]]]:
    """When each evaluation began and ended; the last one is that at the end of training."""
    from dlrun.training.trainer import Trainer

    plain, found = Trainer.evaluate, list[tuple[float, float]]()

    def timed(self: Trainer) -> str | None:
        started = clock.now()
        reason = plain(self)
        found.append((started, clock.now()))
        return reason

    Trainer.evaluate = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Trainer.evaluate = plain  # type: ignore[method-assign]
    if len(found) != 2:
        raise RuntimeError(f"dlrun evaluated {len(found)} times, not before the first step and after the last one")

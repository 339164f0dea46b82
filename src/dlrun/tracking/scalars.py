"""TensorBoard's numbers alone, for a run whose network no one process can look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.tasks import Evaluation
from dlrun.tracking.event_file import EventFile, scalars
from dlrun.training.callbacks import Callback

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer


class Scalars(Callback):
    """Writes rows and evaluations into ``folder/tensorboard/``; a disk that refuses ends the writing, not the run.

    Args:
        folder: the run's directory.
        resumed_from: the step a resumed run goes on from; what earlier attempts wrote later is forgotten.
    """

    def __init__(self, folder: Path, resumed_from: int | None) -> None:
        self.folder = folder / "tensorboard"
        self.purge_step = 0 if resumed_from is None else resumed_from + 1
        self._file: EventFile | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Open the file."""
        try:
            self._file = EventFile(self.folder, self.purge_step)
        except OSError:
            self._file = None

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """One event with all numbers of the row."""
        self._add(row, trainer.step)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """One event with the metrics."""
        self._add({f"{evaluation.split}/{name}": value for name, value in evaluation.metrics.items()}, evaluation.step)

    def _add(self, row: Mapping[str, float], step: int) -> None:
        if self._file is None:
            return
        try:
            self._file.add(scalars(row), step)
        except OSError:
            self._file = None

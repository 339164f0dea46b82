"""What a run shows in TensorBoard, and the same pictures as files in its plots/ folder.

The run's scalars are always written. Histograms and pictures are drawn as often as a share of the running time allows,
before the first step and at the end. Nothing that goes wrong here ends a training: a disk that refuses turns the writer
off, a picture that fails is left out from then on, each with one warning.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.tasks import Evaluation
from dlrun.tracking import event_file, gallery, projector
from dlrun.tracking.allowance import Allowance
from dlrun.tracking.canvas import blank
from dlrun.tracking.curves import learning_curves
from dlrun.tracking.event_file import EventFile
from dlrun.tracking.graph import trace
from dlrun.tracking.histograms import histograms, weights_and_gradients
from dlrun.tracking.history import History
from dlrun.tracking.hyperparameters import Value, markdown, session, text
from dlrun.training.callbacks import Callback

if TYPE_CHECKING:
    from PIL.Image import Image

    from dlrun.training.trainer import Trainer

logger = logging.getLogger(__name__)


class TensorBoard(Callback):
    """Writes ``folder/tensorboard/`` while the run goes on and ``folder/plots/`` at its end.

    Args:
        folder: the run's directory.
        hyperparameters: shown in the hparams tab.
        metric_names: scalar tags that the hparams tab shows beside them, ``test/accuracy`` for example.
        purge_step: for a resumed run, the first step whose events of earlier attempts are to be forgotten.
        share: part of the running time for histograms and pictures together.
        clock: seconds that only grow; replaced in tests.
    """

    def __init__(
        self,
        folder: Path,
        hyperparameters: Mapping[str, Value],
        metric_names: Sequence[str],
        purge_step: int | None = None,
        share: float = 0.002,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.folder = folder
        self.hyperparameters = hyperparameters
        self.metric_names = metric_names
        self.purge_step = purge_step
        # A share each, so that histograms, which are asked for more often, cannot starve the pictures.
        self.histogram_time = Allowance(share * 0.25, clock)
        self.picture_time = Allowance(share * 0.75, clock)
        self._file: EventFile | None = None
        self._gallery: gallery.Gallery | None = None
        self._session_end: Any = None
        self._curves: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._metric = "accuracy"
        self._drawn: dict[str, tuple[int, Image | str | None]] = {}
        self._histograms_at = -1 if purge_step is None else purge_step - 1  # a resumed run has its start's already
        self._graph_owed = False  # it takes a while and shows the same at any time: training comes first
        self._failed: set[str] = set()
        self._last_evaluation: Evaluation | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Open the file; write the configuration, the hyperparameters and pictures, unless an earlier attempt did."""
        self._metric = "r2" if trainer.task.name == "regression" else trainer.task.monitor.metric
        first = not any((self.folder / "tensorboard").glob("events*"))
        with self._storing():
            self._file = EventFile(self.folder / "tensorboard", self.purge_step or 0)
        with self._trying("earlier rows"):
            self._remember_earlier_rows()
        with self._trying("hyperparameters"):
            experiment, start, self._session_end = session(self.hyperparameters, self.metric_names)
            for summary in (experiment, start, text("config", self._config())) if first else ():
                self._add(summary, 0)
        with self.histogram_time.spending():
            self._histograms(trainer)
        with self._trying("pictures"):
            event_file.picture("", blank(1, 1)[0])  # loads Pillow, slow once and not the first picture's own cost
            self._gallery = gallery.Gallery(trainer)
        self._graph_owed = first
        if first and self._gallery is not None:
            with self.picture_time.spending():
                self._draw(self._gallery.drawings(), trainer.step, keep=False)
        # The pictures of the untrained network belong to the start; the share is that of the training's own time.
        self.histogram_time.begin(dearer=2)  # with gradients
        self.picture_time.begin(dearer=4)  # with those of an evaluation, the first of their kind

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """One event with all numbers of the row; the graph and histograms when their time has come."""
        self._scalars(row, trainer.step)
        if self._graph_owed and self.picture_time.allows():
            with self.picture_time.spending():
                self._draw_graph(trainer)
        if self._file is not None and self.histogram_time.allows():
            with self.histogram_time.spending():
                self._histograms(trainer)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """The metrics; pictures when their time has come, and always for the test part, which comes once."""
        self._scalars({f"{evaluation.split}/{key}": v for key, v in evaluation.metrics.items()}, evaluation.step)
        self._last_evaluation = evaluation
        if evaluation.split == "test":
            self._draw(gallery.evaluation_drawings(evaluation, trainer.task, trainer.facts), evaluation.step, keep=True)
            self._draw_precision_recall(trainer, evaluation)
        elif self._file is not None and self.picture_time.allows():
            with self.picture_time.spending():
                self._draw_all(trainer, keep=False)

    def on_end(self, trainer: Trainer) -> None:
        """The final histograms, pictures and codes, the pictures as events and as files; the graph where it is owed."""
        if self._graph_owed:
            self._draw_graph(trainer)
        self._histograms(trainer)
        self._draw_all(trainer, keep=True)
        self._draw_learning_curves()
        with self._trying("codes"), self._storing():
            if self._file is not None:
                projector.write_codes(self.folder / "tensorboard", trainer)

    def finish(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the final metrics that are not there yet, mark the session as a success and close the file.

        Not for an interrupted or failed run, whose session stays open.
        """
        missing = {k: v for k, v in metrics.items() if k in self.metric_names and not self._has(k, step)}
        if missing:
            self._scalars(missing, step)
        self._draw_learning_curves()
        if self._session_end is not None:
            self._add(self._session_end, step)
        self.close()

    def close(self) -> None:
        """Close the file, if it is open; nothing more is written."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # everything was flushed when it was written
                file.close()

    def _histograms(self, trainer: Trainer) -> None:
        if self._file is not None and self._histograms_at != trainer.step:
            self._histograms_at = trainer.step
            with self._trying("histograms"):
                self._add(histograms(weights_and_gradients(trainer.model)), trainer.step)

    def _draw_graph(self, trainer: Trainer) -> None:
        self._graph_owed = False
        if self._gallery is not None and self._file is not None:
            with self._trying("graph"):
                graph, metadata = trace(trainer.model, self._gallery.inputs)
                with self._storing():
                    self._file.add_graph(graph, metadata)

    def _draw_all(self, trainer: Trainer, keep: bool) -> None:
        if self._gallery is not None:
            self._draw(self._gallery.drawings(), trainer.step, keep)
        evaluation = self._last_evaluation
        if evaluation is not None and evaluation.split == "val":
            self._draw(gallery.evaluation_drawings(evaluation, trainer.task, trainer.facts), evaluation.step, keep)
            self._draw_precision_recall(trainer, evaluation)

    def _draw(self, drawings: Mapping[str, gallery.Draw], step: int, keep: bool) -> None:
        """Each picture once per step: TensorBoard takes a second one for a restarted run."""
        for tag, draw in drawings.items():
            with self._trying(tag):
                drawn_at, image = self._drawn.get(tag, (-1, None))
                if drawn_at != step:
                    image = draw()
                    self._drawn[tag] = step, image
                    if isinstance(image, str):
                        self._add(markdown(tag, image), step)
                    elif image is not None:
                        self._add(event_file.picture(tag, image), step)
                if keep and image is not None:
                    self._save(image, tag.rpartition("/")[2])

    def _draw_precision_recall(self, trainer: Trainer, evaluation: Evaluation) -> None:
        tag = f"{evaluation.split}/precision_recall"
        if self._drawn.get(tag, (-1, None))[0] != evaluation.step:
            self._drawn[tag] = evaluation.step, None
            with self._trying(tag):
                for summary in gallery.precision_recall(evaluation, trainer.task, trainer.facts):
                    self._add(summary, evaluation.step)

    def _draw_learning_curves(self) -> None:
        with self._trying("learning curves"):
            image = learning_curves(self._curves, self._metric)
            if image is not None:
                self._save(image, "learning_curves")

    def _save(self, image: Image | str, name: str) -> None:
        path = self.folder / "plots" / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(image, str):
            path.with_suffix(".md").write_text(image, encoding="utf-8")
        else:
            image.save(path.with_suffix(".png"))

    def _scalars(self, row: Mapping[str, float], step: int) -> None:
        for key, value in row.items():
            self._curves[key].append((step, value))
        self._add(event_file.scalars(row), step)

    def _has(self, key: str, step: int) -> bool:
        return any(at >= step for at, _ in self._curves.get(key, ())[-1:])

    def _add(self, summary: Any, step: int) -> None:
        with self._storing():
            if self._file is not None:
                self._file.add(summary, step)

    def _config(self) -> str:
        path = self.folder / "config.yaml"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        return "\n".join(f"{key}: {value}" for key, value in self.hyperparameters.items())

    def _remember_earlier_rows(self) -> None:
        """The learning curves of a resumed run begin where the run began."""
        if self.purge_step is None:
            return
        for row in History(self.folder / "history.jsonl").rows():
            if row["step"] < self.purge_step:
                for key in (key for key in row if "/" in key):
                    self._curves[key].append((row["step"], float(row[key])))

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """A disk that refuses turns the writer off, with one warning."""
        try:
            yield
        except OSError as error:
            self.close()
            logger.warning("TensorBoard is off for the rest of this run: %s; training goes on.", error)

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """Whatever cannot be drawn is left out, with one warning for each kind."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.warning("TensorBoard goes without %s (%s); training goes on.", what, reason)
            logger.debug("TensorBoard goes without %s", what, exc_info=True)
            self._failed.add(what)

"""What a trained run answers when it is asked: rows for a CSV, pictures, new examples, or a text that goes on.

Which of these it is follows from the task: ``answers`` says what it writes, ``sample`` that it draws new examples.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.data.images import image_files
from dlrun.errors import ConfigError, DataError
from dlrun.output_files import STANDARD_OUTPUT, one_file, picture_files, sheet, write, write_csv, write_picture
from dlrun.tracking.run_directory import RunDirectory
from dlrun.trained import Trained, restore
from dlrun.training.evaluation import evaluation_mode

CHUNK = 500
COUNT, LENGTH, TEMPERATURE = 16, 500, 0.8


@dataclass(frozen=True)
class Wishes:
    """What was asked for beside files; None where nothing was said.

    Attributes:
        prompt: a text, to go on with or to classify.
        length: tokens to go on for.
        temperature: below 1 safer, above 1 wilder, 0 the likeliest token each time.
        top_k: draw from the k likeliest tokens.
        count: new examples to draw.
        seed: of everything drawn.
    """

    prompt: str | None = None
    length: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    count: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Predictions:
    """The answer as rows, and the file or folder it was written to; ``text`` is that of a language model."""

    rows: list[dict[str, object]]
    path: Path
    text: str | None = None
    pictures: list[Path] = field(default_factory=list)


# What each way of answering takes beside files.
TAKES = {"rows": (), "images": (), "samples": ("count", "seed"),
         "text": ("prompt", "length", "temperature", "top_k", "seed")}  # fmt: skip
# What file holds each kind of data.
FILES = {"image": "a picture or a folder of pictures", "audio": "a WAV file or a folder of them",
         "text": "a file with a text on each line", "series": "a table of the series up to now",
         "table": "a file of rows like those it was trained on", "points": "a table of points"}  # fmt: skip


def predict(
    path: Path,
    inputs: Sequence[Path] = (),
    *,
    output: Path | None = None,
    wishes: Wishes = Wishes(),
    trusted: Sequence[str] = (),
) -> Predictions:
    """Ask a run's best network about the given files, a prompt or nothing, and write what it answers.

    Args:
        path: the run.
        inputs: files or folders of the kind that the run was trained on.
        output: a file, or a folder for several pictures; ``-`` is standard output. None: the run's own folder.
        wishes: what else was asked for.
        trusted: packages that a configuration may name.

    Raises:
        ConfigError: this run takes no files, needs some, or has no use for an option.
        DataError: a file that cannot be read as the run's kind of data.
        StorageError: the answer cannot be written.
    """
    trained = restore(path, trusted)
    way = _way(path, trained, inputs, wishes)
    _check_wishes(trained, way, wishes)
    folder = RunDirectory.open(path).predictions
    if way == "text":
        return _continuation(trained, inputs, wishes, one_file(output, folder, "continuation.txt", inputs))
    if way == "images":
        return _pictures(trained, inputs, output, folder)
    if way == "samples":
        return _samples(trained, wishes, output, folder)
    target = one_file(output, folder, f"{inputs[0].stem}.csv" if inputs else "prompt.csv", inputs)
    rows = [row for file in inputs for row in _rows(trained, file, {"file": file.name} if len(inputs) > 1 else {})]
    if wishes.prompt is not None:
        if not wishes.prompt.strip():
            raise ConfigError("--prompt is blank, so there is nothing to classify; write --prompt TEXT")
        reader: Any = trained.preprocess
        rows += _answers(trained, reader.encode([wishes.prompt]), [wishes.prompt], {})
    write_csv(target, rows)
    return Predictions(rows, target)


def _way(path: Path, trained: Trained, inputs: Sequence[Path], wishes: Wishes) -> str:
    """How this run answers: ``rows``, ``images``, ``samples`` or ``text``. Raises ConfigError where it cannot."""
    task = trained.task
    if task.answers == "text":
        return "text"
    draws, reads = hasattr(task, "sample"), hasattr(task, "rows") or hasattr(task, "images")
    if inputs and not reads:
        raise ConfigError(f"task={task.name} takes no files, it draws new examples: dlrun predict RUN --count 16")
    if draws and not inputs:
        return "samples"
    if not inputs and wishes.prompt is None:
        either = ", or --prompt TEXT" if trained.facts.kind == "text" else ""
        file = FILES.get(trained.facts.kind, "a file")
        raise ConfigError(
            f"'dlrun predict' wants an INPUT: {file}{either}; write 'dlrun predict {shlex.quote(str(path))} FILE'"
        )
    return "images" if task.answers == "images" and hasattr(trained.preprocess, "invert") else "rows"


def _check_wishes(trained: Trained, way: str, wishes: Wishes) -> None:
    """Refuse an option that would be passed over."""
    takes = TAKES[way] + (("prompt",) if way == "rows" and trained.facts.kind == "text" else ())
    given = [f.name for f in fields(wishes) if getattr(wishes, f.name) is not None]
    for name in given:
        if name not in takes:
            known = [f"--{other.replace('_', '-')}" for other in takes]
            works = f"it takes {', '.join(known)}" if known else "it takes files: dlrun predict RUN FILE..."
            raise ConfigError(f"--{name.replace('_', '-')} does not go with a run of task={trained.task.name}; {works}")


@contextmanager
def _asking(trained: Trained, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, the run's precision, and a fixed stream of random numbers that ends with it."""
    with evaluation_mode(trained.model), trained.precision.autocast(trained.device):
        torch.manual_seed(seed)
        yield


def _rows(trained: Trained, file: Path, where: dict[str, object]) -> list[dict[str, object]]:
    raw, names = trained.preprocess.read(file)
    if not len(raw):
        raise DataError(f"{file} holds nothing to predict from")
    return _answers(trained, raw, names, where)


def _answers(trained: Trained, raw: Tensor, names: list[str], where: dict[str, object]) -> list[dict[str, object]]:
    """The task's rows for raw inputs (N, ...), each after the name of its example."""
    task: Any = trained.task
    rows: list[dict[str, object]] = []
    named = iter(names)
    for chunk in raw.split(CHUNK):
        with _asking(trained):
            outputs = trained.model(trained.preprocess(chunk.to(trained.device))).float()
        for example in task.rows(outputs):
            name = next(named)
            rows += [where | {"input": name} | row for row in example]
    return rows


def _pictures(trained: Trained, inputs: Sequence[Path], output: Path | None, folder: Path) -> Predictions:
    """One PNG for each picture given."""
    files = [file for given in inputs for file in (image_files(given)[0] if given.is_dir() else [given])]
    if not files:
        raise DataError(f"{inputs[0]} holds no picture")
    targets = picture_files(files, output, folder)
    task: Any = trained.task
    preprocess: Any = trained.preprocess
    finish = getattr(preprocess, "recolour", lambda raw, found: preprocess.invert(found))
    rows: list[dict[str, object]] = []
    for file, target in zip(files, targets, strict=True):
        raw, _ = preprocess.read(file)
        with _asking(trained):
            found = task.images(trained.model, preprocess(raw.to(trained.device))).float().cpu()
        picture = finish(raw, found)[0]
        write_picture(target, picture)
        rows.append({"input": file.name, "width": picture.shape[2], "height": picture.shape[1], "picture": target.name})
    return Predictions(rows, targets[0] if len(targets) == 1 else targets[0].parent, pictures=targets)


def _samples(trained: Trained, wishes: Wishes, output: Path | None, folder: Path) -> Predictions:
    """New examples: pictures as one sheet, anything else as rows in the range that the network sees."""
    task: Any = trained.task
    with _asking(trained, wishes.seed or 0):
        drawn = task.sample(trained.model, wishes.count or COUNT).float().cpu()
    if hasattr(trained.preprocess, "invert"):
        (target,) = picture_files([Path("samples.png")], output, folder)
        write_picture(target, sheet(trained.preprocess.invert(drawn)))
        return Predictions([], target, pictures=[target])
    values = drawn.flatten(1)
    names = trained.facts.features
    names = names if len(names) == values.shape[1] else tuple(f"x{i + 1}" for i in range(values.shape[1]))
    rows: list[dict[str, object]] = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    target = one_file(output, folder, "samples.csv", ())
    write_csv(target, rows)
    return Predictions(rows, target)


def _continuation(trained: Trained, inputs: Sequence[Path], wishes: Wishes, target: Path) -> Predictions:
    """The prompt, or the one file given, and how the network goes on."""
    if len(inputs) > 1 or (inputs and wishes.prompt is not None):
        raise ConfigError("a language model goes on with one text: give one file, or --prompt TEXT")
    task: Any = trained.task
    preprocess: Any = trained.preprocess
    prompt = preprocess.read(inputs[0])[0][0] if inputs else preprocess.encode(wishes.prompt or "")
    with _asking(trained):
        drawn = task.continue_text(
            trained.model,
            prompt.to(trained.device),
            wishes.length or LENGTH,
            temperature=TEMPERATURE if wishes.temperature is None else wishes.temperature,
            top_k=wishes.top_k or 0,
            generator=torch.Generator().manual_seed(wishes.seed or 0),
        )
    text: str = preprocess.decode(torch.cat([prompt, drawn.cpu()]))
    if target != STANDARD_OUTPUT:
        write(target, text.encode("utf-8", "backslashreplace"))
    return Predictions([], target, text=text)

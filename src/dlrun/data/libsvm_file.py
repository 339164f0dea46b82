"""``data=libsvm``: the text format of LIBSVM and SVMlight, one example a line: ``label index:value index:value ...``.

Source: C.-C. Chang and C.-J. Lin, "LIBSVM: A Library for Support Vector Machines", README. Indices rise along a line
and begin at 1 (at 0 where a file has a 0); what is not written is 0; ``#`` begins a comment.

Legend: N examples, F features.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlrun.data import Examples, Splits
from dlrun.data.facts import Facts
from dlrun.data.tabular import shorten, three_parts
from dlrun.data.text_file import TextFile
from dlrun.errors import ConfigError, DataError

FEWEST_ROWS = 5
MOST_CLASSES = 100  # whole numbers with at most so many distinct values are classes
MOST_BYTES = 4 * 2**30  # of all parts together, written out with their zeros
LARGEST = 1e30  # its square still fits in float64, and itself in float32
COMMAND = "dlrun train data=libsvm data.path=FILE"


@dataclass(frozen=True)
class Lines:
    """What a file says.

    Attributes:
        path: the file.
        labels: (N,) float64.
        values: (N, 1 + largest index), sparse, its columns the indices as written.
        zero: whether index 0 is in use.
        digest: SHA-256 of the file's bytes.
    """

    path: Path
    labels: npt.NDArray[np.float64]
    values: Any
    zero: bool
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def read_lines(path: Path) -> Lines:
    """Read a file.

    Raises:
        DataError: it is missing, empty or no text, or a line is not of this form; names the line.
    """
    from sklearn.datasets import load_svmlight_file

    file = TextFile(path)
    try:
        values, labels = load_svmlight_file(io.BytesIO(file.text.encode()), dtype=np.float64, zero_based=True)
        fine = bool((np.abs(values.data) <= LARGEST).all() and (np.abs(labels) <= LARGEST).all())
    except (ValueError, OverflowError, MemoryError):
        fine = False
    if not fine:
        raise DataError(_first_mistake(path, file.text))
    if not len(labels):
        raise DataError(f"{path} has no example in it, only comments; a line is 'label index:value index:value ...'")
    return Lines(path, labels, values, bool((values.indices == 0).any()), file.digest)


def _first_mistake(path: Path, text: str) -> str:
    """A sentence on the first line that cannot be read."""
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].split()
        if words and not _is_number(words[0]):
            return f"{path}, line {number}: the label '{shorten(words[0])}' is not a number"
        last = -1
        for word in words[1:]:
            index, colon, value = word.partition(":")
            if index == "qid" and value.isdecimal():
                continue
            if not (colon and index.isdecimal() and index.isascii() and _is_number(value)):
                return f"{path}, line {number}: '{shorten(word)}' is not index:value, such as 3:0.5"
            if not last < int(index) < 2**31:
                return f"{path}, line {number}: index {shorten(index)} does not rise; sort the indices of each line"
            last = int(index)
    return f"{path} is not in LIBSVM's format; a line is 'label index:value index:value ...'"


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and abs(float(text)) <= LARGEST
    except ValueError:
        return False


@dataclass(frozen=True)
class LibsvmPreprocess:
    """Features as they are written: data in this format come scaled.

    Attributes:
        features: F.
        first: the index of the first one, 0 or 1.
    """

    features: int
    first: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Identity (to float32)."""
        return inputs.float()

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read a file for ``dlrun predict``: inputs (N, F), and ``row 1``, ...; its labels are passed over.

        Raises:
            DataError: the file cannot be read, or has a feature that the model was not trained on.
        """
        lines = read_lines(path)
        return self.dense(lines), [f"row {i + 1}" for i in range(len(lines))]

    def dense(self, lines: Lines) -> Tensor:
        """Lines with their zeros written out, (N, F) float32."""
        last = lines.values.shape[1] - 1
        if last >= self.first + self.features or (lines.zero and self.first == 1):
            wrong = 0 if lines.zero and self.first == 1 else last
            raise DataError(
                f"{lines.path} has a feature {wrong}, but the model was trained on features {self.first} to"
                f" {self.first + self.features - 1}"
            )
        inputs = np.zeros((len(lines), self.features), np.float32)
        found = lines.values.tocoo()
        inputs[found.row, found.col - self.first] = found.data
        return torch.from_numpy(inputs)

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore`` builds the same object."""
        return {"kind": "libsvm", "features": self.features, "first": self.first}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> LibsvmPreprocess:
        """The inverse of ``state``."""
        return cls(state["features"], state["first"])


class LibsvmFile:
    """Examples in LIBSVM's format.

    Args:
        path: the file.
        val_path, test_path: files of the other parts, with the same features.
        task: ``auto`` (whole numbers of at most 100 kinds are classes), ``classification`` or ``regression``.
        val: share of the training part held out to choose the best checkpoint by, without ``val_path``.
        test: share of the examples held out for the test, without ``test_path``.
        seed: of the split.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        task: str = "auto",
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
    ) -> None:
        if task not in ("auto", "classification", "regression"):
            raise ConfigError(f"data.task={task} is none of auto, classification, regression")
        self.path, self.val_path, self.test_path = path, val_path, test_path
        self.task, self.val, self.test, self.seed = task, val, test, seed

    def facts(self) -> Facts:
        """Read the files and tell what was found. Raises DataError naming file and line."""
        return self._splits.facts

    def load(self) -> Splits:
        """Read and split; read once, however often it is asked. Raises like ``facts``."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        if self.path is None:
            raise ConfigError(f"data=libsvm needs a file; run '{COMMAND}'")
        lines = read_lines(Path(self.path).expanduser())
        if len(lines) < FEWEST_ROWS:
            raise DataError(f"{lines.path} has {len(lines)} examples; at least {FEWEST_ROWS} are needed")
        task, classes, notes = _meaning(lines, self.task)
        extra = {
            slot: read_lines(Path(path).expanduser())
            for slot, path in ((1, self.val_path), (2, self.test_path))
            if path is not None
        }
        files = [lines, *extra.values()]
        preprocess = _agreed(files)
        targets = _targets(lines, classes)
        val, test = (0.0 if 1 in extra else self.val), (0.0 if 2 in extra else self.test)
        rows = three_parts(len(lines), val, test, self.seed, targets if classes else None)
        inputs = preprocess.dense(lines)
        parts = [Examples(inputs[part], targets[part]) for part in rows]
        for slot, file in extra.items():
            parts[slot] = Examples(preprocess.dense(file), _targets(file, classes))
        facts = Facts(
            name="libsvm",
            kind="table",
            input_shape=(preprocess.features,),
            task=task,
            classes=classes,
            targets=() if classes else ("label",),
            sizes=dict(zip(("train", "val", "test"), map(len, parts), strict=True)),
            notes=notes,
        )
        fingerprint = hashlib.sha256(" ".join(file.digest for file in files).encode()).hexdigest()
        return Splits(facts, parts[0], parts[1], parts[2], preprocess, fingerprint)


def _meaning(lines: Lines, task: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Task, names of the classes in the order of their numbers, and what was judged."""
    kinds = np.unique(lines.labels)
    notes: tuple[str, ...] = ()
    if task == "auto":
        few = len(kinds) <= MOST_CLASSES and bool((kinds == np.round(kinds)).all())
        task, other = ("classification", "regression") if few else ("regression", "classification")
        notes = (f"{task}, judged by {len(kinds):,} different labels (data.task={other} overrides)",)
    if task == "regression":
        return task, (), notes
    if not 2 <= len(kinds) <= len(lines) // 2:
        raise DataError(
            f"{lines.path}: {len(kinds)} different labels in {len(lines)} examples make no classes; for numbers"
            " to predict add data.task=regression"
        )
    return task, tuple(_name(kind) for kind in kinds), notes


def _name(label: float) -> str:
    """A label as it is written: a whole number without a point."""
    return str(int(label)) if label == int(label) else repr(float(label))


def _targets(lines: Lines, classes: tuple[str, ...]) -> Tensor:
    """Class indices (N,) int64, or values (N, 1) float64."""
    if not classes:
        return torch.from_numpy(lines.labels)[:, None]
    place = {name: index for index, name in enumerate(classes)}
    names = [_name(label) for label in lines.labels]
    unknown = next((name for name in names if name not in place), None)
    if unknown is not None:
        raise DataError(f"{lines.path} has the label {unknown}, which no training example has: {', '.join(classes)}")
    return torch.tensor([place[name] for name in names], dtype=torch.int64)


def _agreed(files: list[Lines]) -> LibsvmPreprocess:
    """Features that hold all files: from the first index in use to the last."""
    first = 0 if any(file.zero for file in files) else 1
    features = max(file.values.shape[1] for file in files) - first
    if features < 1:
        raise DataError(f"{files[0].path} has no features; a line is 'label index:value index:value ...'")
    need = 4 * features * sum(map(len, files))
    if need > MOST_BYTES:
        raise DataError(
            f"{files[0].path}: {sum(map(len, files)):,} examples of {features:,} features take {need / 2**30:,.1f} GiB"
            f" with their zeros; up to {MOST_BYTES // 2**30} GiB are taken"
        )
    return LibsvmPreprocess(features, first)

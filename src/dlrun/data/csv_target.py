"""What a table is to predict: classes or values, read from its target columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dlrun.data.columns import MISSING, Floats, to_numbers
from dlrun.data.csv_columns import holds_numbers
from dlrun.data.csv_file import Table
from dlrun.data.tabular import read_numbers, shorten
from dlrun.errors import ConfigError, DataError, nearest

FEW_CLASSES = 20  # whole numbers with at most so many distinct values are classes
LABELS = frozenset(("-", "none", "None", "NONE"))  # in a target of texts these are classes and not gaps
GAPS_IN_LABELS = MISSING - LABELS


@dataclass(frozen=True)
class Target:
    """Read from a table's rows.

    Attributes:
        task: ``classification`` or ``regression``.
        values: (N,) int64 class indices (-1 where missing), or (N, D) float64 (NaN where missing).
        classes: the classes' names; empty for regression.
        notes: what was inferred.
    """

    task: str
    values: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def known(self) -> Tensor:
        """(N,) bool: the rows whose target is there."""
        return self.values >= 0 if self.classes else ~self.values.isnan().any(dim=1)


def read_target(table: Table, places: Sequence[int], task: str) -> Target:
    """Read the target columns; ``task`` may be ``auto``.

    Raises:
        DataError: a value that is no number, one class only, or as many classes as rows.
        ConfigError: several targets to be classified.
    """
    if len(places) > 1:
        if task == "classification":
            raise ConfigError("several data.target columns are values, not classes; use data.task=regression")
        return _read_values(table, places, ())
    numbers = table.numbers(places[0])
    note: tuple[str, ...] = ()
    if task == "auto":
        numeric = holds_numbers(table, places[0], "data.task=classification")
        task = "regression" if numeric and not _few_whole_numbers(numbers.values) else "classification"
        if numeric:
            other = "regression" if task == "classification" else "classification"
            note = (f"target '{table.names[places[0]]}': {task}, judged by its numbers (data.task={other} overrides)",)
    if task == "regression":
        return _read_values(table, places, note)
    classes = find_classes(table, places[0])
    return Target(task, read_labels(table, places[0], classes), classes, note)


def find_classes(table: Table, place: int) -> tuple[str, ...]:
    """The names of the classes in the order of their index: by number where all are numbers, else by alphabet.

    Raises:
        DataError: fewer than two, or so many that they cannot be classes.
    """
    counts = Counter(label for label in _labels(table, place) if label is not None)
    if not counts:
        raise DataError(f"{table.path}: column '{table.names[place]}' is empty, so there is nothing to predict")
    if len(counts) == 1:
        raise DataError(
            f"{table.path}: column '{table.names[place]}' has one class only, '{shorten(next(iter(counts)))}'; a"
            " classifier needs two"
        )
    if len(counts) > 2 and 2 * len(counts) > counts.total():
        raise DataError(
            f"{table.path}: column '{table.names[place]}' has {len(counts):,} distinct values in {counts.total():,}"
            " rows, too many for classes; choose another data.target, or data.task=regression for numbers"
        )
    numeric = not to_numbers(list(counts)).bad
    return tuple(sorted(counts, key=(lambda label: (float(label), label)) if numeric else str))


def read_labels(table: Table, place: int, classes: Sequence[str]) -> Tensor:
    """Class indices (N,) int64, -1 where the label is missing.

    Raises:
        DataError: a label that is none of the classes, with its line.
    """
    index = {label: i for i, label in enumerate(classes)}
    found = []
    for row, label in enumerate(_labels(table, place)):
        if label is not None and label not in index:
            close = nearest(label, classes)
            hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(classes[:20])}"
            raise DataError(f"{table.cell(row, place)}: '{shorten(label)}' is no class of the training file's; {hint}")
        found.append(-1 if label is None else index[label])
    return torch.tensor(found, dtype=torch.int64)


def read_values(table: Table, places: Sequence[int]) -> Tensor:
    """Values (N, D) float64 in their own units: float32 would round a time in seconds to minutes.

    NaN where missing. Raises DataError for a text, with its line.
    """
    columns = [read_numbers(table, place) for place in places]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


def _read_values(table: Table, places: Sequence[int], notes: tuple[str, ...]) -> Target:
    values = read_values(table, places)
    for column, place in enumerate(places):
        present = values[~values[:, column].isnan(), column]
        if len(present) == 0 or bool((present == present[0]).all()):
            what = "is empty" if len(present) == 0 else f"is always {float(present[0]):g}"
            raise DataError(f"{table.path}: column '{table.names[place]}' {what}, so there is nothing to predict")
    return Target("regression", values, (), notes)


def _few_whole_numbers(values: Floats) -> bool:
    """At most 20 distinct whole numbers (two, or at least five rows of each on average)."""
    present = values[~np.isnan(values)]
    distinct = len(np.unique(present))
    whole = bool((present == np.floor(present)).all())
    return whole and (distinct <= 2 or (distinct <= FEW_CLASSES and len(present) >= 5 * distinct))


def _labels(table: Table, place: int) -> list[str | None]:
    """One label a row, None where missing; whole numbers are written alike (``1.0`` is ``1``)."""
    texts = table.columns[place]
    numbers = table.numbers(place)
    values = numbers.values[~np.isnan(numbers.values)]
    if not numbers.bad and len(values) and bool((values == np.floor(values)).all()) and np.abs(values).max() < 1e15:
        written = {value: str(int(value)) for value in set(values.tolist())}
        return [written.get(value) for value in numbers.values.tolist()]
    gaps = GAPS_IN_LABELS if numbers.bad else MISSING
    return [None if text in gaps else text for text in texts]

"""From the columns of a table to network inputs, the same for training and for ``dlrun predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.data.columns import LARGEST, Column, Floats, NumberColumn, restore_column
from dlrun.data.csv_file import Table, read_table
from dlrun.data.splitting import held_out_count, split_indices
from dlrun.errors import DataError, nearest


@dataclass(frozen=True)
class TablePreprocess:
    """The columns that become inputs, each with what the training part taught it.

    Attributes:
        columns: the encoders, in the order of the inputs.
        header: the names of all columns of the training file, by which a file without header is matched.
        targets: the names of the columns to predict, which a file to predict from may lack.
    """

    columns: tuple[Column, ...]
    header: tuple[str, ...]
    targets: tuple[str, ...]

    @classmethod
    def standardising(cls, names: Sequence[str], train: Tensor, target: str) -> TablePreprocess:
        """For a table of numbers without gaps: zero mean and unit variance of the training part (N, F)."""
        values = train.double().numpy()
        fitted = [NumberColumn.fit(name, values[:, i]) or NumberColumn(name) for i, name in enumerate(names)]
        return cls(tuple(fitted), (*names, target), (target,))

    @classmethod
    def identity(cls, names: Sequence[str], target: str) -> TablePreprocess:
        """For numbers that go into the network as they are."""
        return cls(tuple(NumberColumn(name) for name in names), (*names, target), (target,))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the network inputs: a column's own, or ``column=category``."""
        return tuple(feature for column in self.columns for feature in column.features)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Identity (to float32): tables are encoded when they are read."""
        return inputs.float()

    def encode_numbers(self, values: Tensor) -> Tensor:
        """Raw numbers (N, F), one column each and NaN for missing, to inputs (N, F) float32."""
        raw = values.double().numpy()
        parts = [column.encode(raw[:, i]) for i, column in enumerate(self.columns) if isinstance(column, NumberColumn)]
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def encode(self, table: Table, places: Sequence[int]) -> Tensor:
        """Rows of a table to inputs (N, F) float32; ``places`` says where each encoder finds its column.

        Raises:
            DataError: naming file, line and column of a value that is no number where one is needed.
        """
        parts = []
        for column, place in zip(self.columns, places, strict=True):
            if isinstance(column, NumberColumn):
                parts.append(column.encode(read_numbers(table, place)))
            else:
                parts.append(column.encode(table.columns[place]))
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def places(self, table: Table) -> list[int]:
        """Where each encoder finds its column: by name, or by position in a file without header.

        A file without header may hold all columns of the training file, all but the targets, or the used ones alone.

        Raises:
            DataError: a column is missing (with the nearest name), or no such number of columns fits.
        """
        used = [column.name for column in self.columns]
        if table.header and any(name in self.header for name in table.names):
            place = {name: i for i, name in enumerate(table.names)}
            for name in used:
                if name not in place:
                    close = nearest(name, table.names)
                    hint = f"rename '{close}' to it" if close else f"it has {', '.join(table.names[:20])}"
                    raise DataError(f"{table.path} has no column '{name}', which the model was trained on; {hint}")
            return [place[name] for name in used]
        inputs = [name for name in self.header if name not in self.targets]
        for names in (list(self.header), inputs, used):
            if len(names) == len(table.names):
                place = {name: i for i, name in enumerate(names)}
                return [place[name] for name in used]
        raise DataError(
            f"{table.path} has {len(table.names)} columns and none of the names the model was trained on; expected"
            f" {len(inputs)} columns: {', '.join(inputs[:20])}{', ...' if len(inputs) > 20 else ''}"
        )

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read a table for ``dlrun predict``, with or without targets and header: inputs (N, F), and ``row 1``, ...

        Raises:
            DataError: the file cannot be read, lacks a column, or holds a text where a number is needed.
        """
        table = read_table(path, known=self.header, prefer_rows=True)
        return self.encode(table, self.places(table)), [f"row {i + 1}" for i in range(len(table))]

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore`` builds the same encoders."""
        columns = [column.state() for column in self.columns]
        return {"kind": "table", "columns": columns, "header": list(self.header), "targets": list(self.targets)}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> TablePreprocess:
        """The inverse of ``state``."""
        columns = tuple(restore_column(column) for column in state["columns"])
        return cls(columns, tuple(state["header"]), tuple(state["targets"]))


def read_numbers(table: Table, place: int) -> Floats:
    """A column of a table as float64 (N,), NaN for missing.

    Raises:
        DataError: naming file, line and column of the first value that is no number, not finite, or above 1e30.
    """
    numbers = table.numbers(place)
    if numbers.bad:
        row = numbers.bad[0]
        raise DataError(
            f"{table.cell(row, place)}: '{shorten(table.columns[place][row])}' is not a number; correct it, leave it"
            f" empty, or train with the column as categories: 'data.categorical=[{table.names[place]}]'"
        )
    with np.errstate(invalid="ignore"):
        extreme = np.flatnonzero(np.abs(numbers.values) > LARGEST)
    if len(extreme):
        row = int(extreme[0])
        raise DataError(
            f"{table.cell(row, place)}: '{shorten(table.columns[place][row])}' is beyond {LARGEST:g}, the largest"
            " number taken; correct it or leave it empty"
        )
    return numbers.values


def shorten(text: str, most: int = 40) -> str:
    """A value for an error's sentence, without line breaks and not too long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def three_parts(n: int, val: float, test: float, seed: int, labels: Tensor | None = None) -> tuple[Tensor, ...]:
    """Indices of training, validation and test part: first the test share of all, then ``val`` of what is left."""
    rest, tested = split_indices(n, test, seed, labels)
    kept, held = split_indices(len(rest), val, seed, None if labels is None else labels[rest])
    return rest[kept], rest[held], tested


def part_sizes(n: int, val: float, test: float) -> dict[str, int]:
    """The sizes of the parts that ``three_parts`` makes."""
    tested = held_out_count(n, test)
    held = held_out_count(n - tested, val)
    return {"train": n - tested - held, "val": held, "test": tested}

"""``data=series``: columns of numbers over time in a text file, cut into windows: a stretch of the past, and what came.

Legend: N rows in the order of time, F columns of values, the D targets first, L rows looked back on, H rows ahead.

Parts and scaling are those of the forecasting literature (Zhou et al., "Informer", AAAI 2021, and its data loader): the
parts follow one another in time, the windows of validation and test look back into the part before, and the values are
standardised with the training part's mean and population deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.data import Splits
from dlrun.data.columns import Floats
from dlrun.data.csv_file import Table, read_table
from dlrun.data.facts import Facts
from dlrun.data.series_columns import Wanted, choose_columns, read_values, refuse_texts
from dlrun.data.series_dates import read_order
from dlrun.data.windows import Windows
from dlrun.errors import ConfigError, DataError, nearest

COMMAND = "dlrun train data=series data.path=FILE.csv model=dlinear"
SHARES = (0.7, 0.1, 0.2)


class Series:
    """A series of one or more columns, forecast H rows ahead from the L rows before. Columns by name or index.

    Args:
        path: the file: comma, semicolon, tab, bar or blanks between the fields; UTF-8, UTF-16 or latin-1.
        target: the column(s) to forecast; null: all columns of numbers.
        inputs: the columns to forecast from, beside the targets' own past; null: all columns of numbers.
        date: the column that tells the time; null: found, and where there is none the lines are in their order.
        look_back: L.
        horizon: H.
        split: ``auto`` (0.7, 0.1 and 0.2 of the rows), or three shares, or three numbers of rows, for training,
            validation and test, in the order of time; rows beyond them are not used.
        header: ``auto``, or whether the first line holds the names.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        target: str | int | Sequence[str | int] | None = None,
        inputs: str | int | Sequence[str | int] | None = None,
        date: str | int | None = None,
        look_back: int = 96,
        horizon: int = 24,
        split: str | Sequence[float] = "auto",
        header: str | bool = "auto",
    ) -> None:
        self.path, self.header = path, header
        self.target: Wanted = target
        self.inputs: Wanted = inputs
        self.date, self.look_back, self.horizon, self.split = date, look_back, horizon, split

    def facts(self) -> Facts:
        """Read the file and tell what was found. Raises DataError naming file and line, ConfigError for a wrong key."""
        return self._splits.facts

    def load(self) -> Splits:
        """Read, sort, fill, split and scale; read once, however often it is asked. Raises like ``facts``."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        header = self._check()
        known = [name for name in (*_names(self.target), *_names(self.inputs), self.date) if isinstance(name, str)]
        table = read_table(Path(self.path or "").expanduser(), header, known)
        order = read_order(table, self.date)
        places, targets, left_out = choose_columns(table, order.places, self.target, self.inputs)
        values, gaps = read_values(table, places, order.rows)
        rows = part_rows(len(values), self.split)
        self._refuse_short(table.path, len(values), rows)
        preprocess = SeriesPreprocess.fit(table, places, order.places, values[: rows[0]], self.look_back)
        ready = preprocess.scale(values)
        parts = [self._windows(ready, targets, sum(rows[:i]), sum(rows[: i + 1])) for i in range(3)]
        notes = [*table.notes, *order.notes, *left_out, *gaps]
        still = np.flatnonzero(np.ptp(values[: rows[0]], axis=0) == 0)
        notes += [f"column '{preprocess.columns[i]}' is constant in the training part" for i in still]
        if unused := len(values) - sum(rows):
            notes.append(f"the last {unused:,} rows lie beyond data.split and are not used")
        facts = Facts(
            name="series",
            kind="series",
            input_shape=(self.look_back, len(places)),
            task="forecasting",
            targets=preprocess.columns[:targets],
            features=preprocess.columns,
            sizes=dict(zip(("train", "val", "test"), map(len, parts), strict=True)),
            notes=tuple(notes),
            target_shape=(self.horizon, targets),
            target_scales=tuple(zip(preprocess.mean, preprocess.deviation, strict=True))[:targets],
        )
        return Splits(facts, parts[0], parts[1], parts[2], preprocess, table.digest)

    def _check(self) -> bool | None:
        """Refuse keys that cannot be; return the header's choice, None to find out."""
        if self.path is None:
            raise ConfigError(f"data=series needs a file; run '{COMMAND}'")
        for key, value in (("look_back", self.look_back), ("horizon", self.horizon)):
            if value < 1:
                raise ConfigError(f"data.{key}={value} must be at least 1 row; use for example data.{key}=24")
        choices = {"auto": None, "true": True, "false": False}
        if str(self.header).lower() not in choices:
            raise ConfigError(f"data.header={self.header} is none of auto, true, false")
        return choices[str(self.header).lower()]

    def _refuse_short(self, path: Path, n: int, rows: Sequence[int]) -> None:
        """Refuse parts without a window, with the largest windows that each part has one of."""
        held_out = [count for count in rows[1:] if count]
        if rows[0] >= self.look_back + self.horizon and all(count >= self.horizon for count in held_out):
            return
        horizon = min([self.horizon, max(rows[0] // 2, 1), *held_out])
        look_back = min(self.look_back, rows[0] - horizon)
        parts = f"{path} has {n:,} rows, {rows[0]:,} for training, {rows[1]:,} for validation and {rows[2]:,} for test"
        if look_back < 1:
            raise DataError(f"{parts}: too few for one window; give a longer series or another data.split")
        raise DataError(
            f"{parts}: too few for data.look_back={self.look_back} and data.horizon={self.horizon}; the largest that"
            f" work are data.look_back={look_back} data.horizon={horizon}"
        )

    def _windows(self, ready: Tensor, targets: int, begin: int, end: int) -> Windows:
        """All windows whose rows ahead lie in ``begin`` to ``end``; only these rows and those looked back on."""
        first = max(0, begin - self.look_back)
        count = max(0, end - first - self.look_back - self.horizon + 1) if end > begin else 0
        return Windows(ready[first:end], torch.arange(count), self.look_back, self.horizon, targets)


@dataclass(frozen=True)
class SeriesPreprocess:
    """The columns of a series and what the training part taught of each.

    Attributes:
        columns: names of the F columns of values, targets first.
        mean, deviation: of each, over the training part; the deviation of a constant column counts as 1.
        length: L, the rows a network looks back on.
        header: the names of all columns of the training file, by which a file without header is matched.
        times: the names of the columns that tell the time.
    """

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    length: int
    header: tuple[str, ...]
    times: tuple[str, ...]

    @classmethod
    def fit(
        cls, table: Table, places: Sequence[int], times: Sequence[int], train: Floats, length: int
    ) -> SeriesPreprocess:
        """Learn from the training part's values (N, F)."""
        deviation = train.std(axis=0)
        constant = deviation <= 1e-12 * np.abs(train).max(axis=0)
        names = tuple(table.names[place] for place in places)
        scales = np.where(constant, 1.0, deviation)
        when = tuple(table.names[place] for place in times)
        return cls(names, tuple(train.mean(axis=0).tolist()), tuple(scales.tolist()), length, table.names, when)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Identity (to float32): series are scaled when they are read."""
        return inputs.float()

    def scale(self, values: Floats) -> Tensor:
        """Values (N, F) in their own units to float32 with the training part's mean 0 and deviation 1."""
        return torch.from_numpy(((values - self.mean) / self.deviation).astype(np.float32))

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """The last window of a file with the same columns, (1, L, F), and the date of its last row.

        Raises:
            DataError: the file cannot be read, lacks a column, holds a text for a number, or has too few rows.
        """
        table = read_table(path, known=self.header, prefer_rows=True)
        place = self._places(table)
        dated = bool(self.times) and all(name in place for name in self.times)
        order = read_order(table, table.names[place[self.times[0]]] if dated else None)
        chosen = [place[name] for name in self.columns]
        for column in chosen:
            refuse_texts(table, column)
        values, _ = read_values(table, chosen, order.rows, to_the_end=True)
        if len(values) < self.length:
            raise DataError(f"{path} has {len(values):,} rows; the network looks back on {self.length:,}, so give more")
        return self.scale(values[-self.length :])[None], [order.dates[-1]]

    def _places(self, table: Table) -> dict[str, int]:
        """Where each column stands: by name, or by position in a file without header."""
        place = {name: i for i, name in enumerate(table.names)}
        if table.header and any(name in place for name in self.columns):
            for name in self.columns:
                if name not in place:
                    close = nearest(name, table.names)
                    hint = f"rename '{close}' to it" if close else f"it has {', '.join(table.names[:20])}"
                    raise DataError(f"{table.path} has no column '{name}', which the model was trained on; {hint}")
            return place
        for names in (self.header, tuple(name for name in self.header if name in self.columns)):
            if len(names) == len(table.names):
                return {name: i for i, name in enumerate(names)}
        raise DataError(
            f"{table.path} has {len(table.names)} columns and none of the names the model was trained on:"
            f" {', '.join(self.columns[:20])}{', ...' if len(self.columns) > 20 else ''}"
        )

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore`` builds the same scaling."""
        return {
            "kind": "series",
            "columns": list(self.columns),
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "length": self.length,
            "header": list(self.header),
            "times": list(self.times),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> SeriesPreprocess:
        """The inverse of ``state``."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in state.items()}
        return cls(**{key: value for key, value in values.items() if key != "kind"})


def part_rows(n: int, split: str | Sequence[float]) -> tuple[int, int, int]:
    """Rows of the training, validation and test part of a series of ``n``; shares that add up to 1 use every row.

    Raises:
        ConfigError: the split is neither three shares nor three numbers of rows that the series has.
    """
    parts = SHARES if split == "auto" else split
    wrong = f"data.split={split} must be three shares such as [0.7,0.1,0.2], or three numbers of rows"
    if isinstance(parts, str) or len(parts) != 3 or not all(isinstance(p, int | float) and p >= 0 for p in parts):
        raise ConfigError(wrong)
    train, val, test = parts
    if train <= 0 or (max(parts) > 1 and any(part != int(part) for part in parts)):
        raise ConfigError(wrong)
    if max(parts) > 1:
        if sum(parts) > n:
            raise ConfigError(f"data.split={list(parts)} adds up to {int(sum(parts)):,} rows; the series has {n:,}")
        return int(train), int(val), int(test)
    if sum(parts) > 1 + 1e-9:
        raise ConfigError(f"data.split={list(parts)} adds up to more than the whole series")
    rows, tested = int(n * train + 1e-9), int(n * test + 1e-9)
    held = n - rows - tested if sum(parts) > 1 - 1e-9 and val else int(n * val + 1e-9)
    return rows, held, tested


def _names(wanted: Wanted) -> Sequence[str | int]:
    return () if wanted is None else [wanted] if isinstance(wanted, str | int) else wanted

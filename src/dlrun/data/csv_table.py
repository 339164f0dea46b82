"""``data=csv``: any table in a text file, with its separator, header, column kinds and task found out and told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from dlrun.data import Examples, Splits
from dlrun.data.csv_columns import Choice, find_column, fit_columns
from dlrun.data.csv_file import Table, read_table
from dlrun.data.csv_target import Target, read_labels, read_target, read_values
from dlrun.data.facts import Facts
from dlrun.data.tabular import TablePreprocess, three_parts
from dlrun.errors import ConfigError, DataError

FEWEST_ROWS = 5
COMMAND = "dlrun train data=csv data.path=FILE data.target=COLUMN"
Names = Sequence[str | int]


class CSV:
    """A table of examples, one a line. Columns are given by name or by index (0 the first, -1 the last).

    Args:
        path: the file: comma, semicolon, tab, bar or blanks between the fields; UTF-8, UTF-16 or latin-1.
        target: the column to predict, by name or index (null: the last); a list of columns for several values.
        header: ``auto``, or whether the first line holds the names.
        task: ``auto``, ``classification`` or ``regression``.
        val: share of the training part held out to choose the best checkpoint by, without ``val_path``.
        test: share of the rows held out for the test, without ``test_path``.
        val_path, test_path: files with the same columns.
        drop, categorical, numeric: columns not to use, to take as categories, to take as numbers.
        max_categories: how many categories of a column get an input of their own.
        seed: of the split.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        target: str | int | Names | None = None,
        header: str | bool = "auto",
        task: str = "auto",
        val: float = 0.1,
        test: float = 0.2,
        val_path: str | None = None,
        test_path: str | None = None,
        drop: Names = (),
        categorical: Names = (),
        numeric: Names = (),
        max_categories: int = 32,
        seed: int = 0,
    ) -> None:
        self.path, self.header, self.task = path, header, task
        self.target: str | int | Names = -1 if target is None else target
        self.val, self.test, self.val_path, self.test_path = val, test, val_path, test_path
        self.drop, self.categorical, self.numeric = drop, categorical, numeric
        self.max_categories, self.seed = max_categories, seed

    def facts(self) -> Facts:
        """Read the file and tell what was found. Raises DataError naming file and line, ConfigError for a wrong key."""
        return self._splits.facts

    def load(self) -> Splits:
        """Read, split and fit; read once, however often it is asked. Raises like ``facts``."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        header = self._check()
        table = self._read(self.path or "", header)
        places = self._targets(table)
        _refuse_few(table, len(table))
        target = read_target(table, places, self.task)
        kept = target.known.nonzero().flatten()
        _refuse_few(table, len(kept))
        train, val, test = self._divide(kept, target)
        preprocess, notes = self._fit(table, places, train)
        inputs = preprocess.encode(table, preprocess.places(table))
        parts = [Examples(inputs[part], target.values[part]) for part in (train, val, test)]
        digests = [table.digest]
        for slot, (path, key) in enumerate(((self.val_path, "val_path"), (self.test_path, "test_path")), start=1):
            if path is not None:
                extra = self._read(path, table.header)
                parts[slot] = self._extra(extra, table, places, target, preprocess, key)
                digests.append(extra.digest)
        if missing := len(table) - len(kept):
            notes = (f"{missing:,} rows without a target are left out", *notes)
        facts = Facts(
            name="csv",
            kind="table",
            input_shape=(len(preprocess.features),),
            task=target.task,
            classes=target.classes,
            targets=() if target.classes else preprocess.targets,
            features=preprocess.features,
            sizes=dict(zip(("train", "val", "test"), map(len, parts), strict=True)),
            notes=(*table.notes, *target.notes, *notes),
        )
        fingerprint = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        return Splits(facts, parts[0], parts[1], parts[2], preprocess, fingerprint)

    def _check(self) -> bool | None:
        """Refuse keys that cannot be; return the header's choice, None to find out."""
        if self.path is None:
            raise ConfigError(f"data=csv needs a file; run '{COMMAND}'")
        if self.task not in ("auto", "classification", "regression"):
            raise ConfigError(f"data.task={self.task} is none of auto, classification, regression")
        if self.max_categories < 1:
            raise ConfigError(f"data.max_categories={self.max_categories} must be at least 1")
        choices = {"auto": None, "true": True, "false": False}
        if str(self.header).lower() not in choices:
            raise ConfigError(f"data.header={self.header} is none of auto, true, false")
        return choices[str(self.header).lower()]

    def _read(self, path: str, header: bool | None) -> Table:
        wanted = [self.target] if isinstance(self.target, str | int) else self.target
        known = [name for name in (*wanted, *self.drop, *self.categorical, *self.numeric) if isinstance(name, str)]
        return read_table(Path(path).expanduser(), header, known)

    def _targets(self, table: Table) -> list[int]:
        wanted = [self.target] if isinstance(self.target, str | int) else list(self.target)
        places = [find_column(table, name, "data.target") for name in wanted]
        if not places or len(set(places)) < len(places):
            raise ConfigError(f"data.target={self.target} must name each column to predict once")
        if len(table.names) == len(places):
            raise DataError(
                f"{table.path} has {len(places)} column(s), all of them targets; a table needs one to learn from"
                " (fields are separated by comma, semicolon, tab, bar or blanks)"
            )
        return places

    def _divide(self, kept: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the training, validation and test part; a part that has its own file gets none of these rows."""
        labels = target.values[kept] if target.classes else None
        val, test = (0.0 if self.val_path else self.val), (0.0 if self.test_path else self.test)
        train, held, tested = three_parts(len(kept), val, test, self.seed, labels)
        return kept[train], kept[held], kept[tested]

    def _fit(self, table: Table, places: list[int], train: Tensor) -> tuple[TablePreprocess, tuple[str, ...]]:
        sets = {}
        for key, names in (("drop", self.drop), ("categorical", self.categorical), ("numeric", self.numeric)):
            sets[key] = frozenset(find_column(table, name, f"data.{key}") for name in names)
            if clash := sets[key] & set(places):
                raise ConfigError(f"column '{table.names[min(clash)]}' is in data.target and in data.{key}; keep one")
        if both := sets["categorical"] & sets["numeric"]:
            raise ConfigError(f"column '{table.names[min(both)]}' is in data.categorical and data.numeric; keep one")
        choice = Choice(sets["drop"], sets["categorical"], sets["numeric"], self.max_categories)
        columns, notes = fit_columns(table, places, train.sort().values.numpy(), choice)
        return TablePreprocess(columns, table.names, tuple(table.names[place] for place in places)), notes

    def _extra(
        self, extra: Table, table: Table, places: list[int], target: Target, preprocess: TablePreprocess, key: str
    ) -> Examples:
        """A part read from its own file: the same columns, the classes and statistics of the training file."""
        if extra.header:
            found = [find_column(extra, table.names[place], "column") for place in places]
        elif len(extra.names) == len(table.names):
            found = places
        else:
            raise DataError(f"{extra.path} has {len(extra.names)} columns, {table.path} has {len(table.names)}")
        values = read_labels(extra, found[0], target.classes) if target.classes else read_values(extra, found)
        known = replace(target, values=values).known
        if not known.any():
            raise DataError(f"{extra.path} (data.{key}) has no row with a target")
        inputs = preprocess.encode(extra, preprocess.places(extra))
        return Examples(inputs[known], values[known])


def _refuse_few(table: Table, rows: int) -> None:
    if rows < FEWEST_ROWS:
        found = "1 row" if rows == 1 else f"{rows} rows"
        raise DataError(
            f"{table.path} has {found} with a target; at least {FEWEST_ROWS} are needed to learn and to test"
        )

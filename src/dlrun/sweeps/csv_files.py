"""A sweep's results as two tables for other programs: points.csv and trials.csv."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlrun.sweeps.nouns import DONE, SweepResult
from dlrun.sweeps.results import axis_keys, is_finite
from dlrun.tracking.durable import replace
from dlrun.tracking.sweep_directory import SweepDirectory


def write_csv(result: SweepResult, folder: Path) -> tuple[Path, Path]:
    """Write ``points.csv`` (by rank) and ``trials.csv`` into ``folder``; not-a-number is an empty field.

    Raises:
        StorageError: the disk refuses.
    """
    sweep = SweepDirectory(folder)
    points, trials = sweep.points_table, sweep.trials_table
    _write_rows(points, _point_rows(result))
    _write_rows(trials, _trial_rows(result))
    return points, trials


def _point_rows(result: SweepResult) -> Iterator[list[Any]]:
    keys = axis_keys(result)
    yield ["rank", "number", *keys, "mean", "standard_error", "n", "state", "seconds"]
    ranked = result.ranked()
    there = {point.number for point in ranked}
    for rank, point in enumerate([*ranked, *(p for p in result.points if p.number not in there)], 1):
        done = sum(trial.status == DONE and is_finite(trial.value) for trial in point.trials)
        seconds = [trial.seconds for trial in point.trials if trial.seconds is not None]
        values = [point.point.values.get(key) for key in keys]
        place = rank if point.number in there else None
        spent = sum(seconds) if seconds else None
        yield [place, point.number, *values, point.mean, point.error, done, point.state, spent]


def _trial_rows(result: SweepResult) -> Iterator[list[Any]]:
    keys = axis_keys(result)
    trials = [(point, trial) for point in result.points for trial in point.trials]
    metrics = list(dict.fromkeys(name for _, trial in trials for name in trial.metrics))
    yield ["number", "seed", *keys, "status", "value", *metrics, "seconds", "steps", "folder", "error"]
    for point, trial in trials:
        yield [
            point.number,
            trial.seed,
            *(point.point.values.get(key) for key in keys),
            trial.status,
            trial.value,
            *(trial.metrics.get(name) for name in metrics),
            trial.seconds,
            trial.steps,
            Path(os.path.relpath(trial.folder, result.folder)).as_posix(),
            trial.error,
        ]


def _write_rows(path: Path, rows: Iterator[list[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row)
    replace(path, [text.getvalue().encode(errors="backslashreplace")])

"""What stands in the tables a person sees of a sweep, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.tables import Table
from dlrun.cli.text import clock, number, printable
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, TERMINAL
from dlrun.sweeps.results import OUTPUT, RUNNING, WAITING, axis_keys, best_trial, command_of, counts
from dlrun.tracking.sweep_directory import SweepDirectory

if TYPE_CHECKING:
    from dlrun.sweeps.nouns import PointResult, SweepResult, TrialResult

TOP = 20  # points in the closing table
LISTED = 10  # failures listed one by one
BAR = 24  # columns of the longest bar of an importance


def values(pairs: Mapping[str, str]) -> str:
    """The swept values in one line, long numbers in four figures."""
    return " ".join(f"{key}={_brief(value)}" for key, value in pairs.items()) or "as composed"


def mean(point: PointResult, plus: str = "+-") -> str:
    """The mean and its standard error: ``0.9712 +- 0.0021``."""
    if point.mean is None:
        return ""
    return number(point.mean) + ("" if point.error is None else f" {plus} {_error(point.error)}")


def took(seconds: float) -> str:
    """A duration as ``12 s`` or ``3:05``."""
    return f"{seconds:.0f} s" if seconds < 59.5 else clock(seconds)


def summary(result: SweepResult) -> str:
    """What is searched and how, in one line."""
    settings, seeds = result.settings, len(result.space.seeds)
    planned = max(result.planned or 0, len(result.points))
    size = f"{planned:,} {_plural(planned, 'point')}" if planned else "points"
    size += f" x {seeds} seeds = {planned * seeds:,} trials" if seeds > 1 and planned else ""
    pruner = "" if settings.pruner == "none" else f", pruned by {settings.pruner}"
    workers = f"{settings.workers} {_plural(settings.workers, 'worker')}"
    return f"{size} by {settings.sampler}{pruner}, ranked by {result.metric}, on {workers}"


def states(result: SweepResult) -> str:
    """How many trials run, wait and ended how; those there are."""
    found = counts(result)
    order = (RUNNING, DONE, PRUNED, FAILED, DIVERGED, WAITING)
    return ", ".join(f"{found[state]:,} {state}" for state in order if found[state]) or "no trials yet"


def ranking(result: SweepResult, width: int | None = None, plus: str = "+-") -> Table:
    """The best points; a column per key where ``width`` has room for them, else all values in one."""
    ranked = result.ranked()
    keys = axis_keys(result)
    leaves = [key.rpartition(".")[2] for key in keys]
    heads = [leaf if leaves.count(leaf) == 1 else key for leaf, key in zip(leaves, keys, strict=True)]
    rows, folded = [], []
    for rank, point in enumerate(ranked[:TOP], 1):
        done = sum(trial.status == DONE for trial in point.trials)
        seconds = sum(trial.seconds or 0.0 for trial in point.trials)
        ending = (mean(point, plus), str(done), point.state, clock(seconds))
        there = point.point.values
        by_head = {head: there[key] for head, key in zip(heads, keys, strict=True) if key in there}
        cells = [_brief(there.get(key, "-")) for key in keys]
        rows.append((str(rank), str(point.number), *cells, *ending))
        folded.append((str(rank), str(point.number), values(by_head), *ending))
    more = len(ranked) - TOP
    title = f"best {TOP} of {len(ranked):,} points, the others are in points.csv" if more > 0 else "points, best first"
    last = (result.metric, "seeds", "state", "time")
    spare = ("time", "state", "seeds")
    table = Table(title, ("rank", "point", *heads, *last), "rr" + "l" * len(keys) + "rrlr", rows, spare)
    needed = [column for column in zip(table.columns, *rows, strict=True) if column[0] not in spare]
    widths = [max(map(len, column)) for column in needed]
    if width is not None and sum(widths) + 2 * len(widths) > width:
        return Table(title, ("rank", "point", "values", *last), "rrlrrlr", folded, spare)
    return table


def importances(result: SweepResult, full: str = "#") -> Table:
    """A little bar per key, the most important first."""
    shares = sorted(result.importances.items(), key=lambda pair: -pair[1])
    longest = max((share for _, share in shares), default=1.0) or 1.0
    rows = [(key, f"{share:.0%}", full * max(0, round(BAR * share / longest))) for key, share in shares]
    return Table(f"share of the variance of {result.metric}", ("", "", ""), "lrl", rows)


def failures(result: SweepResult) -> list[str]:
    """A line for each trial that failed or diverged; of very many the first ones and how many more there are."""
    found = [(p, t) for p in result.points for t in p.trials if t.status in (FAILED, DIVERGED)]
    lines = [failure(point, trial) for point, trial in found[:LISTED]]
    more = len(found) - LISTED
    return [*lines, f"and {more:,} more: see trials.csv"] if more > 0 else lines


def failure(point: PointResult, trial: TrialResult) -> str:
    """Which trial, how it ended, why, and where to read on."""
    log = trial.folder / OUTPUT
    where = log if log.is_file() else trial.folder
    why = trial.error or "nothing is known of why"
    label = values(point.point.values)
    return f"{trial.status}: point {point.number} seed {trial.seed}: {why} ({label}; see {where})"


def best_command(result: SweepResult, more: Sequence[str] = ()) -> str:
    """The best trial's command line with ``more`` words, or nothing."""
    found = best_trial(result)
    return "" if found is None else command_of(found[0].point, found[1].seed, more)


def facts(result: SweepResult) -> Table:
    """How many trials ended how, the time, the best trial's run and the files written."""
    rows = [("trials", states(result)), ("time", clock(result.seconds))]
    if (found := best_trial(result)) is not None:
        rows.append(("best run", str(found[1].folder)))
    rows += [(what, str(path)) for what, path in _files(result).items()]
    return Table("", ("", ""), "ll", [*rows, ("sweep", str(result.folder))])


def as_json(result: SweepResult, more: Sequence[str] = ()) -> dict[str, Any]:
    """The sweep for ``--json``; ``more`` are words that every ``dlrun train`` of it needs."""
    ranks = {point.number: rank for rank, point in enumerate(result.ranked(), 1)}
    found = best_trial(result)
    best = None
    if found is not None:
        point, trial = found
        best = {
            "number": point.number, "seed": trial.seed, "values": point.point.values, "mean": point.mean,
            "standard_error": point.error, "path": trial.folder, "command": command_of(point.point, trial.seed, more),
        }  # fmt: skip
    return {
        "name": result.name,
        "path": result.folder,
        "metric": result.metric,
        "higher_is_better": result.higher_is_better,
        "planned": result.planned,
        "seeds": list(result.space.seeds),
        "seconds": result.seconds,
        "trials": {state: counts(result)[state] for state in (*TERMINAL, RUNNING, WAITING)},
        "best": best,
        "importances": result.importances,
        "files": _files(result),
        "points": [_point_json(point, ranks.get(point.number)) for point in result.points],
    }


def _point_json(point: PointResult, rank: int | None) -> dict[str, Any]:
    trials = [
        {
            "seed": trial.seed, "status": trial.status, "value": trial.value, "metrics": trial.metrics,
            "seconds": trial.seconds, "steps": trial.steps, "path": trial.folder, "error": trial.error,
            "reused": trial.reused, "packed": trial.packed,
        }
        for trial in point.trials
    ]  # fmt: skip
    return {
        "number": point.number, "rank": rank, "values": point.point.values, "overrides": point.point.overrides,
        "state": point.state, "mean": point.mean, "standard_error": point.error, "trials": trials,
    }  # fmt: skip


def _files(result: SweepResult) -> dict[str, Path]:
    sweep = SweepDirectory(result.folder)
    paths = {"report": sweep.report, "points": sweep.points_table, "trials": sweep.trials_table}
    return {what: path for what, path in paths.items() if path.is_file()}


def _brief(text: str) -> str:
    if len(text) <= 7:
        return printable(text)
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return printable(text)


def _error(error: float) -> str:
    return f"{error:.4f}" if 0.001 <= error < 1 else f"{error:.2g}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"

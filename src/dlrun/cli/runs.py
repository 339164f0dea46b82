"""``dlrun runs``: the table of runs and sweeps, newest first; a sweep is one row unless its trials are asked for."""

from __future__ import annotations

import fnmatch
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.shared import no_more, outputs
from dlrun.cli.tables import Table, print_json, print_tables
from dlrun.cli.text import clock, number
from dlrun.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments

Record = dict[str, Any]


def run(arguments: Arguments) -> int:
    """Print the runs that pass the filters, in the order asked for."""
    no_more("runs", arguments.words, "no words")
    root = outputs(arguments)
    limit = arguments.number("--limit", least=1)
    conditions = arguments.texts("--filter")
    records = _asked_for(arguments, root, conditions)
    for condition in conditions:
        records = matching(records, condition)
    records = ordered(records, arguments.text("--sort"))[:limit]
    if arguments.flag("--json"):
        print_json(records)
    elif records:
        print_tables([trials_table(records) if arguments.flag("--sweep") else runs_table(records)])
    elif arguments.flag("--sweep"):
        print("no trial passes the filter" if conditions else "the sweep has no trials yet", file=sys.stderr)
    else:
        why = "no run passes the filter" if conditions else "there are no runs"
        print(f"{why} under {root}; 'dlrun train' makes one", file=sys.stderr)
    return 0


def _asked_for(arguments: Arguments, root: Path, conditions: list[str]) -> list[Record]:
    """One sweep's trials, point by point; or every run and trial; or runs and sweeps. The newest first."""
    named = arguments.text("--sweep")
    if named is not None:
        from dlrun.tracking.run_directory import list_trials
        from dlrun.tracking.sweep_directory import SweepDirectory

        return list_trials(SweepDirectory.find(named, root).path)
    from dlrun.tracking.folders import age
    from dlrun.tracking.run_directory import list_runs
    from dlrun.tracking.sweep_directory import list_sweeps

    runs = list_runs(root)
    if arguments.flag("--all") or any(condition.startswith("sweep") for condition in conditions):
        return list(reversed(runs))
    alone = [record for record in runs if "sweep" not in record]
    return sorted([*alone, *list_sweeps(root, runs)], key=age, reverse=True)


COLUMNS = ("run", "status", "data", "model", "optimizer", "steps", "metric", "time", "created")
SPARE = ("created", "optimizer", "steps", "time", "data")


def runs_table(records: list[Record]) -> Table:
    """A line for each run, trial or sweep."""
    return Table("", COLUMNS, "lllllrlrl", [cells(record) for record in records], SPARE)


def trials_table(records: list[Record]) -> Table:
    """A line for each trial of one sweep, with what its point has for the swept keys."""
    rows = []
    for record in records:
        name, status, _, _, _, steps, metric, time, _ = cells(record)
        values = lookup(record, "sweep.values")
        label = " ".join(f"{key}={value}" for key, value in values.items()) if isinstance(values, Mapping) else ""
        rows.append((name.rpartition("/")[2], status, label, steps, metric, time))
    return Table("", ("run", "status", "values", "steps", "metric", "time"), "lllrlr", rows, ("steps", "time"))


def cells(record: Record) -> tuple[str, ...]:
    """One line; a sweep has the points that are done for its steps, and the best mean for its metric."""
    key = key_metric(record)
    seconds = record.get("seconds")
    return (
        run_name(record),
        str(record.get("status", "")),
        str(lookup(record, "data") or ""),
        str(lookup(record, "model") or ""),
        str(lookup(record, "optimizer") or ""),
        _progress(record),
        f"{key} {number(_as_number(lookup(record, key)))}" if key else "",
        clock(seconds) if isinstance(seconds, int | float) else "",
        str(record.get("created", Path(str(record.get("path", ""))).parent.name))[:16].replace("T", " "),
    )


def _progress(record: Record) -> str:
    points, steps = record.get("points"), record.get("steps")
    if record.get("kind") == "sweep" and isinstance(points, Mapping):
        planned = points.get("planned")
        return f"{points.get('done') or 0}{f'/{planned}' if planned is not None else ''} points"
    return number(steps) if isinstance(steps, int) else ""


def run_name(record: Record) -> str:
    """The name of the run's directory, after that of its sweep where it is a trial."""
    path = Path(str(record.get("path", record.get("name", ""))))
    return f"{path.parent.name}/{path.name}" if "sweep" in record else path.name


def key_metric(record: Record) -> str | None:
    """The metric that tells the run's worth: the monitored one on the test part, else on the validation part."""
    metrics, best = record.get("metrics"), record.get("best")
    if not isinstance(metrics, Mapping):
        return None
    monitored = str(best["metric"]).rpartition("/")[2] if isinstance(best, Mapping) and "metric" in best else None
    wanted = [monitored] if monitored else []
    for part in ("test", "val"):
        for name in (*wanted, "accuracy", "r2", "loss"):
            if f"{part}/{name}" in metrics:
                return f"{part}/{name}"
    return None


def lookup(record: Record, key: str) -> Any:
    """The value of a column, a metric or a dotted key of run.json; None when the run has none."""
    if key == "run":
        return run_name(record)
    metrics = record.get("metrics")
    if isinstance(metrics, Mapping) and key in metrics:
        return metrics[key]
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and "name" in value:
        return value["name"]  # data is {name, fingerprint, sizes}
    return value


def matching(records: list[Record], condition: str) -> list[Record]:
    """The runs for which ``KEY=VALUE`` holds; * and ? in VALUE match anything."""
    key, equals, wanted = condition.partition("=")
    if not equals or not key:
        raise ConfigError(f"--filter takes KEY=VALUE, not '{condition}'; write '--filter data=digits'")
    _check_key("--filter", records, key)
    return [record for record in records if fnmatch.fnmatchcase(_text(lookup(record, key)), wanted)]


def ordered(records: list[Record], key: str | None) -> list[Record]:
    """The runs by ``key``, ``-key`` from the largest; runs without a value come last."""
    if key is None:
        return records
    name = key.removeprefix("-")
    _check_key("--sort", records, name)
    values = [(_as_number(lookup(record, name)), record) for record in records]
    there = [(value, record) for value, record in values if not _missing(value)]
    numeric = all(isinstance(value, int | float) for value, _ in there)
    there.sort(key=lambda pair: pair[0] if numeric else _text(pair[0]), reverse=key.startswith("-"))
    missing = [record for value, record in values if _missing(value)]
    return [record for _, record in there] + missing


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_key(option: str, records: list[Record], key: str) -> None:
    if records and all(lookup(record, key) is None for record in records):
        known = {"run", *COLUMNS[1:6]}
        for record in records:
            known.update(record, record.get("metrics") or {})
        if key not in known:
            raise ConfigError(f"{option} {key}: no run has such a key{did_you_mean(key, known)}")


def _as_number(value: Any) -> Any:
    """A metric written as text ("NaN") as the number that it is."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value.replace("Infinity", "inf"))
    return value


def _text(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)

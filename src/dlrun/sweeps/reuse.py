"""What is done is not done again: the finished runs under the root, by what they were.

A trial is spared when a finished run had the same resolved configuration, the same code and the same data. The first
two are told by the ``key`` in run.json (`dlrun.identity.experiment_key`), the data by their fingerprint.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from dlrun.build import Experiment
from dlrun.errors import ConfigError, DlrunError
from dlrun.identity import experiment_key
from dlrun.tracking.run_directory import RunDirectory, list_runs


class Finished:
    """An index of the finished runs, trials of other sweeps included; later ones enter it by `add`."""

    def __init__(self, root: Path) -> None:
        """Read the record of every run under ``root``, once."""
        self._runs: dict[str, list[Path]] = defaultdict(list)  # by key, the newest last
        self._fingerprints: dict[str, str | None] = {}  # of the data as they are now, by their resolved node
        for record in list_runs(root):
            if _is_whole(record):
                self._runs[record["key"]].append(Path(record["path"]))

    def add(self, path: Path) -> None:
        """Take in a run that finished since; one that did not is left out."""
        record = _record(path)
        if _is_whole(record) and path not in self._runs[record["key"]]:
            self._runs[record["key"]].append(path)

    def find(self, experiment: Experiment) -> Path | None:
        """The newest finished run of the same experiment on the same data, still whole now; None when there is none.

        The data are loaded when a run of the same configuration and code exists, once for each resolved ``data`` group.
        """
        key = experiment_key(experiment)
        for path in reversed(self._runs.get(key, [])):
            record = _record(path)
            if _is_whole(record) and record["key"] == key and record["data"]["fingerprint"] == self._now(experiment):
                return path
        return None

    def _now(self, experiment: Experiment) -> str | None:
        """The fingerprint of the data as they are; None where they cannot be read, which the trial itself will say."""
        node = repr(experiment.node["data"])
        if node not in self._fingerprints:
            try:
                self._fingerprints[node] = experiment.data.load().fingerprint
            except DlrunError:
                self._fingerprints[node] = None
        return self._fingerprints[node]


def _record(path: Path) -> dict[str, Any]:
    try:
        return RunDirectory(path).record()
    except ConfigError:  # removed or damaged since
        return {}


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a run ended well and its record has all that a trial's result needs."""
    data, metrics = record.get("data"), record.get("metrics")
    return (
        record.get("status") == "done"
        and isinstance(record.get("key"), str)
        and isinstance(data, dict)
        and isinstance(data.get("fingerprint"), str)
        and isinstance(metrics, dict)
        and bool(metrics)
    )

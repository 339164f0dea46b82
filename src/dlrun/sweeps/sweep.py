"""A sweep on disk: begin it, open it again, say how it stands, sum it up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError
from dlrun.sweeps.child import run_trials
from dlrun.sweeps.frozen import frozen_dirs
from dlrun.sweeps.nouns import TERMINAL, Axis, Settings, Space, SweepResult
from dlrun.sweeps.plan import Plan
from dlrun.sweeps.planner import TrialPlanner
from dlrun.sweeps.points import Composer
from dlrun.sweeps.report import write_report
from dlrun.sweeps.results import collect, write_csv
from dlrun.sweeps.reuse import Finished
from dlrun.sweeps.search import Search
from dlrun.sweeps.settings import storage_url
from dlrun.sweeps.supervisor import Rules
from dlrun.tracking.provenance import provenance, redact
from dlrun.tracking.sweep_directory import SweepDirectory


@dataclass
class Sweep:
    """A sweep on disk, ready to be worked on.

    Attributes:
        directory: its folder.
        about: what sweep.json says.
        search: its study.
        composer: of its frozen config files.
    """

    directory: SweepDirectory
    about: dict[str, Any]
    space: Space
    settings: Settings
    search: Search
    composer: Composer

    @property
    def words(self) -> list[str]:
        """What every ``dlrun train`` of its points needs beside the overrides."""
        folders, _ = frozen_dirs(self.directory.configs)
        words = [word for folder in folders for word in ("--config-dir", str(folder))]
        return words + ([f"trust=[{','.join(self.about['trusted'])}]"] if self.about["trusted"] else [])

    def planner(self, root: Path) -> TrialPlanner:
        """Who makes its trials; ``root`` is the folder of all runs, some of which may be taken over."""
        return TrialPlanner(
            self.directory,
            self.composer,
            self.settings,
            trusted=self.about["trusted"],
            command=self.words,
            finished=None if self.about["again"] else Finished(root),
            trials=self.about["planned"] * len(self.space.seeds),
        )

    def rules(self, grace: float | None) -> Rules:
        """How its trials are carried out."""
        return Rules(
            seeds=self.space.seeds,
            metric=self.about["metric"],
            pruning=self.settings.pruner != "none",
            retries=self.settings.retries,
            trusted=tuple(self.about["trusted"]),
            grace=grace,
            work=partial(run_trials, chooses=self.settings.launcher != "packed"),
        )

    def result(self, seconds: float = 0.0, before: SweepResult | None = None, final: bool = False) -> SweepResult:
        """How it stands; ``final`` with the importances, which take a moment."""
        return collect(
            self.directory.path, self.search.points(), name=self.directory.name, metric=self.about["metric"],
            higher_is_better=self.about["higher_is_better"], space=self.space, settings=self.settings,
            importances=self.search.importances() if final else None, planned=self.search.planned(),
            seconds=seconds, before=before,
        )  # fmt: skip


def begin(plan: Plan, root: Path, *, command: Sequence[str], trusted: Sequence[str], again: bool) -> Sweep:
    """Make the sweep's folder and its study; nothing has run yet.

    Args:
        root: the folder of all runs.
        command: the words of the command line, for the record.
        again: whether finished runs that are equal to a trial are run once more.

    Raises:
        StorageError: the folder or the database cannot be written.
    """
    node = plan.checked.first.node["choices"]
    directory = SweepDirectory.create(root, str(node.get("model")))
    directory.lock()
    shutil.copytree(plan.frozen, directory.configs)
    url = storage_url(plan.settings) or f"sqlite:///{directory.study}"
    search = Search.create(url, directory.name, plan.settings, plan.space, plan.checked.higher_is_better)
    if plan.settings.sampler == "grid":
        search.enqueue(plan.points)
    search.close()
    about = {
        "words": list(plan.words),
        "space": asdict(plan.space),
        "settings": asdict(plan.settings),
        "metric": plan.checked.metric,
        "higher_is_better": plan.checked.higher_is_better,
        "seeds": list(plan.space.seeds),
        "planned": plan.count,
        "trusted": list(trusted),
        "again": again,
        "command": [redact(word) for word in command],
    }
    directory.write_json(**provenance() | about)
    return open_sweep(directory)


def open_sweep(directory: SweepDirectory) -> Sweep:
    """A sweep that was begun.

    Raises:
        ConfigError: a file of it is missing or damaged.
        StorageError: its database cannot be opened.
    """
    about = directory.read_json()
    try:
        axes = tuple(Axis(**{**axis, "values": tuple(axis["values"])}) for axis in about["space"]["axes"])
        space = Space(tuple(about["space"]["fixed"]), axes, tuple(about["space"]["seeds"]))
        settings = Settings(**about["settings"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{directory.path}/sweep.json is damaged ({error}): this sweep cannot go on") from error
    folders, shipped = frozen_dirs(directory.configs)
    url = storage_url(settings) or f"sqlite:///{directory.study}"
    search = Search.open(url, directory.name, settings, space)
    return Sweep(directory, about, space, settings, search, Composer(folders, shipped))


def finished(result: SweepResult) -> bool:
    """Whether every point has ended."""
    return ended(result) >= (len(result.points) if result.planned is None else result.planned)


def ended(result: SweepResult) -> int:
    """How many points have ended."""
    return sum(point.state in TERMINAL for point in result.points)


def sum_up(sweep: Sweep, result: SweepResult, signal: int) -> None:
    """Write the tables, the report and how the sweep stands."""
    folder, about = sweep.directory.path, sweep.about
    write_csv(result, folder)
    write_report(result, sweep.directory.report, command=about["command"], more=sweep.words)
    ranked = result.ranked()
    status = "interrupted" if signal else "done" if finished(result) else "stopped"
    sweep.directory.write_status(
        status,
        done=ended(result),
        planned=result.planned,
        best={"metric": about["metric"], "value": ranked[0].mean} if ranked else None,
        seconds=result.seconds,
    )

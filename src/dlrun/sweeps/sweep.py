"""A sweep on disk: begin it, open it again, say how it stands, sum it up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError, RefusedError, StorageError
from dlrun.sweeps.child import run_trials
from dlrun.sweeps.csv_files import write_csv
from dlrun.sweeps.frozen import frozen_dirs
from dlrun.sweeps.nouns import TERMINAL, Axis, Settings, Space, SweepResult
from dlrun.sweeps.plan import Plan
from dlrun.sweeps.planner import TrialPlanner
from dlrun.sweeps.points import Composer
from dlrun.sweeps.report import write_report
from dlrun.sweeps.results import collect
from dlrun.sweeps.reuse import Finished
from dlrun.sweeps.rules import Rules
from dlrun.sweeps.search import Search
from dlrun.sweeps.settings import storage_url
from dlrun.tracking.own import is_own, mark
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
        trusted: packages that the person at the keyboard admits; a file never does.
    """

    directory: SweepDirectory
    about: dict[str, Any]
    space: Space
    settings: Settings
    search: Search
    composer: Composer
    trusted: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """What every ``dlrun train`` of its points needs beside the overrides."""
        folders, _ = frozen_dirs(self.directory.configs)
        words = [word for folder in folders for word in ("--config-dir", str(folder))]
        return words + trust_words(self.trusted)

    def planner(self) -> TrialPlanner:
        """Who makes its trials."""
        return TrialPlanner(
            self.directory,
            self.composer,
            self.settings,
            trusted=self.trusted,
            command=self.words,
            finished=None if self.about["again"] else Finished(self.directory.path.parent.parent),
            trials=self.about["planned"] * len(self.space.seeds),
        )

    def rules(self, grace: float | None) -> Rules:
        """How its trials are carried out."""
        return Rules(
            seeds=self.space.seeds,
            metric=self.about["metric"],
            pruning=self.settings.pruner != "none",
            retries=self.settings.retries,
            trusted=self.trusted,
            grace=grace,
            work=partial(run_trials, chooses=self.settings.launcher != "packed"),
        )

    def another_search(self) -> Search:
        """Its study once more, for another thread: a connection belongs to one."""
        return _search(self.directory, str(self.about["name"]), self.settings, self.space)

    def result(self, seconds: float = 0.0, before: SweepResult | None = None, final: bool = False) -> SweepResult:
        """How it stands; ``final`` with the importances, which take a moment."""
        points, planned = self.search.standing()
        return collect(
            self.directory.path, points, name=self.directory.name, metric=self.about["metric"],
            higher_is_better=self.about["higher_is_better"], space=self.space, settings=self.settings,
            importances=self.search.importances() if final else None, planned=planned,
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
    try:
        _fill(directory, plan, command=command, trusted=trusted, again=again)
    except BaseException:  # half a sweep would stand in the way of `--resume last`
        directory.unlock()
        shutil.rmtree(directory.path, ignore_errors=True)
        raise
    return open_sweep(directory, trusted)


def _fill(
    directory: SweepDirectory, plan: Plan, *, command: Sequence[str], trusted: Sequence[str], again: bool
) -> None:
    """Write what a sweep has before its first trial; sweep.json last, which makes it one."""
    try:
        shutil.copytree(plan.frozen, directory.configs)
    except OSError as error:  # shutil.Error is one, and lists every file
        why = error.strerror or "the disk refuses some files"
        raise StorageError(f"the config files cannot be copied to {directory.configs}: {why}") from error
    url = storage_url(plan.settings) or f"sqlite:///{directory.study}"
    search = Search.create(url, directory.name, plan.settings, plan.space, plan.checked.higher_is_better)
    if plan.settings.sampler == "grid":
        search.enqueue(plan.points)
    search.close()
    about = {
        "space": asdict(plan.space),
        "settings": asdict(plan.settings),
        "metric": plan.checked.metric,
        "higher_is_better": plan.checked.higher_is_better,
        "seeds": list(plan.space.seeds),
        "planned": plan.count,
        "trusted": list(trusted),
        "again": again,
        "command": [redact(word) for word in command],
        "cwd": str(Path.cwd()),
        "mark": mark(asdict(plan.settings)),
    }
    directory.write_json(**provenance() | about)


def trust_words(trusted: Sequence[str]) -> list[str]:
    """The word that admits these packages, where there are any."""
    return [f"trust=[{','.join(trusted)}]"] if trusted else []


NEEDED = ("name", "metric", "higher_is_better", "planned", "again", "command", "cwd")


def open_sweep(directory: SweepDirectory, trusted: Sequence[str] = (), *, worker: bool = False) -> Sweep:
    """A sweep that was begun; a ``worker`` is started by a master who has asked already whose it is.

    Raises:
        RefusedError: it was begun with packages that are not ``trusted`` now, or by somebody else and would reach
            further than this machine's own processes.
        ConfigError: a file of it is missing or damaged.
        StorageError: its database cannot be opened.
    """
    about = directory.read_json()
    try:
        axes = tuple(Axis(**{**axis, "values": tuple(axis["values"])}) for axis in about["space"]["axes"])
        space = Space(tuple(about["space"]["fixed"]), axes, tuple(about["space"]["seeds"]))
        settings = Settings(**about["settings"])
        name, *_ = [about[key] for key in NEEDED]
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{directory.path}/sweep.json is damaged ({error}): begin the sweep anew with the words of its command; "
            "trials that are done are taken over"
        ) from error
    _refuse_strangers(directory, about, settings, trusted, worker)
    folders, shipped = frozen_dirs(directory.configs)
    search = _search(directory, str(name), settings, space)
    return Sweep(directory, about, space, settings, search, Composer(folders, shipped), tuple(trusted))


def _refuse_strangers(
    directory: SweepDirectory, about: dict[str, Any], settings: Settings, trusted: Sequence[str], worker: bool
) -> None:
    """Refuse what a file alone may not decide: to run somebody's code, to send what is here somewhere else."""
    missing = [str(name) for name in about.get("trusted", ()) if name not in trusted]
    if missing:
        raise RefusedError(
            f"{directory.name} runs code of {', '.join(missing)}, which only you can admit: "
            f"dlrun sweep --resume {directory.name} '{trust_words(missing)[0]}'"
        )
    reaches = settings.storage is not None or settings.launcher in ("slurm", "ray") or settings.sampler == "cmaes"
    if reaches and not worker and not is_own(asdict(settings), about.get("mark")):
        raise RefusedError(
            f"{directory.name} was not begun by you on this machine, and it would connect to its database or cluster, "
            "or read Optuna's pickles: begin one of your own with the words of its command (sweep.json)"
        )


def _search(directory: SweepDirectory, name: str, settings: Settings, space: Space) -> Search:
    url = storage_url(settings) or f"sqlite:///{directory.study}"
    return Search.open(url, name, settings, space)


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

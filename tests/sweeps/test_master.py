"""Carrying a sweep out: the screen hears of every ending, workers live, half a sweep is none."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlrun.errors import StorageError
from dlrun.sweeps import master
from dlrun.sweeps import sweep as sweep_module
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, Ending, PointResult, Settings, SweepResult, TrialResult
from dlrun.sweeps.parties import Change, Halt
from dlrun.sweeps.patience import Heart, patiently
from dlrun.tracking.sweep_directory import SweepDirectory
from sweep_cases import trial_folder, write_run, write_sweep


class Shown:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.endings: list[tuple[int, TrialResult]] = []
        self.warnings: list[str] = []
        self.updates = 0

    def update(self, result: SweepResult, running: Any) -> None:
        self.updates += 1

    def ended(self, point: PointResult, trial: TrialResult) -> None:
        self.endings.append((point.number, trial))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Looked:
    """As much of a sweep as is looked at; ``results`` are what it finds, one after the other."""

    def __init__(self, folder: Path, results: list[SweepResult | StorageError]) -> None:
        self.directory, self.results = SweepDirectory(folder), results

    def result(self, *_: Any) -> SweepResult:
        found = self.results.pop(0)
        if isinstance(found, StorageError):
            raise found
        return found


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master, "LOOK", 1e9)


def watch(folder: Path, *results: SweepResult | StorageError) -> tuple[Any, Shown]:
    shown = Shown()
    watcher = master._Watcher(Looked(folder, list(results)), shown)  # type: ignore[arg-type]
    watcher._looked = master.time.monotonic()
    return watcher, shown


def ended(number: int, seed: int, status: str = DONE, kind: str = "ended", text: str = "") -> Change:
    return Change(kind, number, seed, text, Ending(status, 0.25, "" if status == DONE else "planted"))


@pytest.mark.usefixtures(late.__name__)
def test_an_ending_is_shown_without_looking_at_the_study(tmp_path: Path) -> None:
    result = write_sweep(tmp_path, points=6)
    watcher, shown = watch(tmp_path, result)  # looking once more would find nothing
    whole = result.points[0].trials[0]
    write_run(tmp_path / "equal", curve=[0.7])
    reused = ended(1, 0, kind="reused", text=str(tmp_path / "equal"))
    watcher.heard([ended(0, 0, whole.status), reused, Change("warning", None, text="away")], {})
    assert shown.endings[0] == (0, whole)
    assert (shown.endings[1][1].value, shown.endings[1][1].reused) == (0.7, True)
    assert shown.warnings == ["away"]
    assert shown.updates == 0


@pytest.mark.usefixtures(late.__name__)
def test_a_seed_that_its_point_has_dropped_is_shown_as_it_ended(tmp_path: Path) -> None:
    result = write_sweep(tmp_path, points=6)
    point = replace(result.points[0], trials=())
    watcher, shown = watch(tmp_path, replace(result, points=(point, *result.points[1:])))
    watcher.heard([ended(0, 7, FAILED), ended(0, 8, DIVERGED)], {})
    assert [(n, t.seed, t.status, t.error) for n, t in shown.endings] == [
        (0, 7, FAILED, "planted"),
        (0, 8, DIVERGED, "planted"),
    ]
    assert shown.endings[0][1].folder == trial_folder(tmp_path, 0, 7)


@pytest.mark.usefixtures(late.__name__)
def test_a_point_that_was_proposed_since_is_looked_for(tmp_path: Path) -> None:
    result = write_sweep(tmp_path, points=6)
    young = replace(result, points=result.points[:2])
    watcher, shown = watch(tmp_path, young, StorageError("away"), result)
    watcher.heard([ended(4, 0)], {})
    assert shown.endings == [], "the database is away: it is not shown, and nothing breaks"
    watcher.heard([ended(4, 0)], {})
    assert [number for number, _ in shown.endings] == [4]


def test_a_worker_reads_the_finished_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [["running"], ["running"], [DONE]]
    made: list[str] = []

    class Sweep:
        settings = Settings()
        search = SimpleNamespace(points=lambda: [SimpleNamespace(state=state) for state in states.pop(0)])

        def planner(self) -> str:
            made.append("planner")
            return made[-1]

    monkeypatch.setattr(master, "LOOK", 0.0)
    monkeypatch.setattr(master, "_work", lambda *_: Halt(0, ()))
    assert master.work(Sweep()) == 0  # type: ignore[arg-type]
    assert states == []
    assert made == ["planner"]


class Beats:
    """A study whose database is away the first time."""

    def __init__(self) -> None:
        self.heard: list[list[int]] = []
        self.tried = 0
        self.twice, self.closed = threading.Event(), threading.Event()

    def beat(self, numbers: Iterable[int]) -> None:
        self.tried += 1
        if self.tried == 1:
            raise StorageError("planted")
        self.heard.append(sorted(numbers))
        if len(self.heard) > 1:
            self.twice.set()

    def close(self) -> None:
        self.closed.set()


def test_a_heart_beats_while_the_loop_is_busy_and_survives_a_database_that_is_away() -> None:
    study = Beats()
    with Heart(lambda: study, 0.005) as heart:
        heart.numbers = frozenset({3, 1})
        assert study.twice.wait(30), "this thread does nothing else"
    assert study.closed.wait(30)
    assert study.heard[0] == [1, 3]


def test_patience_has_an_end() -> None:
    tries = []

    def away() -> None:
        tries.append(0)
        raise StorageError("planted")

    with pytest.raises(StorageError, match="planted"):
        patiently(away, -1.0)
    assert len(tries) == 1


def test_a_sweep_that_cannot_be_begun_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise StorageError("planted")

    monkeypatch.setattr(sweep_module.Search, "create", away)
    (tmp_path / "frozen").mkdir()
    checked = SimpleNamespace(first=SimpleNamespace(node={"choices": {"model": "mlp"}}), higher_is_better=True)
    plan: Any = SimpleNamespace(checked=checked, frozen=tmp_path / "frozen", settings=Settings(), space=None)
    with pytest.raises(StorageError, match="planted"):
        sweep_module.begin(plan, tmp_path / "outputs", command=[], trusted=[], again=False)
    assert list((tmp_path / "outputs").glob("*/*")) == []

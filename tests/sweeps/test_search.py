"""The study of a sweep: every point exactly once, whoever dies and whoever comes back."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import FrozenTrial

from dlrun.errors import ConfigError, StorageError
from dlrun.sweeps import search as module
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, Axis, Point, Settings, Space
from dlrun.sweeps.search import Search
from search_cases import BRANCHES, NUMBERS, RATE, grid, maker, report, take, unsynced

pytestmark = pytest.mark.usefixtures(unsynced.__name__)
TESTS = Path(__file__).resolve().parents[1]
Begin = Callable[..., Search]
NAMES = count()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests of this file, since making one takes a quarter of a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('studies')}/study.db"


@pytest.fixture
def begin(url: str) -> Iterator[Begin]:
    """Make a new study, or go on with one by name."""
    begun: list[Search] = []

    def make(space: Space, name: str = "", better: bool = True, **settings: object) -> Search:
        name = name or f"study{next(NAMES)}"
        begun.append(Search.create(url, name, Settings(**settings), space, better))  # type: ignore[arg-type]
        return begun[-1]

    yield make
    for search in begun:
        search.close()


def as_another_process(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "_ME", name)


def test_a_grid_is_handed_out_in_order_and_once(begin: Begin) -> None:
    space, points = grid(3)
    search = begin(space)
    assert search.enqueue(points) == 3
    claimed = list(take(search, space))
    assert [(c.number, c.point, c.claims) for c in claimed] == [(i, points[i], 1) for i in range(3)]
    assert [known.state for known in search.points()] == ["running"] * 3
    assert search.finish(1, DONE, 0.5, seconds=3.5)
    known = search.points()[1]
    assert (known.state, known.value, known.point, known.attributes) == (DONE, 0.5, points[1], {"seconds": 3.5})
    assert search.planned() == 3


def test_points_that_wait_or_have_ended_are_read_once(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    space, points = grid(20)
    search = begin(space)
    search.enqueue(points)
    other = begin(space, search._name)
    read: list[int] = []
    real = search._database._get_trials

    def spy(*questions: Any) -> list[FrozenTrial]:
        found = real(*questions)
        read.extend(trial.number for trial in found)
        return found

    monkeypatch.setattr(search._database, "_get_trials", spy)
    search.points()
    assert sorted(read) == list(range(20))
    for number in range(3):
        other.ask()
        read.clear()
        assert [known.state for known in search.points()].count("running") == 1
        other.finish(number, DONE, 0.5)
        assert search.standing()[0][number].value == 0.5
        search.planned()
        assert read == [number, number]
    other.ask()
    other.reclaim(None)
    assert [(known.state, known.claims) for known in search.points()[2:5]] == [
        (DONE, 1),
        ("waiting", 1),
        ("waiting", 0),
    ]


def test_a_master_that_was_killed_may_enqueue_again(begin: Begin) -> None:
    space, points = grid(4)
    search = begin(space)
    search.enqueue(points[:2])
    search.ask()
    assert search.enqueue(points) == 2
    assert search.enqueue(points) == 0
    assert [(known.state, known.point) for known in search.points()] == [
        ("running" if i == 0 else "waiting", points[i]) for i in range(4)
    ]


def test_points_are_written_all_or_none(begin: Begin) -> None:
    space, points = grid(3)
    search = begin(space)
    with pytest.raises(TypeError, match="not JSON serializable"):
        search.enqueue([*points[:2], Point({"x": object()}, ())])  # type: ignore[dict-item]
    assert search.planned() == 0


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_sampler_is_asked_for_exactly_the_points_wanted(begin: Begin, sampler: str) -> None:
    search = begin(NUMBERS, sampler=sampler, points=5)
    assert search.planned() == 5
    assert search.points() == []
    values = []
    for claimed in take(search, NUMBERS):
        search.finish(claimed.number, DONE, float(claimed.point.values["optimizer.lr"]))
        values.append(claimed.point.values)
    assert len(values) == len({tuple(v.values()) for v in values}) == 5
    for value in values:
        assert 1e-4 <= float(value["optimizer.lr"]) <= 1e-1
        assert 8 <= int(value["model.width"]) <= 512
        assert value["activation"] in ("relu", "tanh")


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_the_same_seed_proposes_the_same_also_when_killed_and_resumed(begin: Begin, sampler: str) -> None:
    def run(name: str, killed_at: int | None, seed: int = 3, most: int = 12) -> list[Point]:
        search = begin(NUMBERS, name, sampler=sampler, points=12, seed=seed)
        for claimed in take(search, NUMBERS, most):
            if claimed.number == killed_at and claimed.claims == 1:
                search.close()
                search = begin(NUMBERS, name, sampler=sampler, points=12, seed=seed)
                assert search.reclaim(None) == [killed_at]
                return [*points(search)[:killed_at], *run(name, None, seed)[killed_at:]]
            search.finish(claimed.number, DONE, -abs(math.log10(float(claimed.point.values["optimizer.lr"])) + 2))
        return points(search)

    def points(search: Search) -> list[Point]:
        return [known.point for known in search.points()]

    whole = run(f"{sampler} whole", None)
    assert len(whole) == 12
    assert run(f"{sampler} killed", 11) == whole  # after the ten random points that tpe starts with
    assert not set(map(str, run(f"{sampler} another", None, seed=4, most=2))) & set(map(str, whole))


def test_random_points_do_not_depend_on_who_asks_when(begin: Begin) -> None:
    one = begin(NUMBERS, sampler="random", points=6)
    alone = [claimed.point for claimed in take(one, NUMBERS)]
    first = begin(NUMBERS, "shared", sampler="random", points=6)
    second = begin(NUMBERS, "shared", sampler="random", points=6)
    for search in (first, second, second, first, second, first):
        claimed = search.ask(maker(NUMBERS))
        assert claimed is not None
        search.finish(claimed.number, FAILED, error="planted")
    assert [known.point for known in second.points()] == alone


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_finite_space_is_tried_without_repeating_and_then_ends(begin: Begin, sampler: str) -> None:
    search = begin(BRANCHES, sampler=sampler, points=100)
    points = []
    for claimed in take(search, BRANCHES):
        points.append(claimed.point.overrides)
        search.finish(claimed.number, DONE, float(len(claimed.point.values)))
    assert len(points) == len(set(points)) == 8
    assert all(("model.gamma" in " ".join(words)) == ("model=svm" in words) for words in points)
    assert search.planned() == 8
    assert search.ask(maker(BRANCHES)) is None
    again = begin(BRANCHES, search._name, sampler=sampler, points=100)
    assert again.ask(maker(BRANCHES)) is None


def test_more_points_can_be_asked_for_later(begin: Begin) -> None:
    search = begin(NUMBERS, sampler="random", points=2)
    assert len(list(take(search, NUMBERS))) == 2
    more = begin(NUMBERS, search._name, sampler="random", points=3)
    assert [claimed.number for claimed in take(more, NUMBERS)] == [2]


def test_a_sampler_without_a_number_of_points_needs_a_finite_space(begin: Begin) -> None:
    with pytest.raises(ConfigError, match=r"sweep=tpe needs .* add sweep.trials=30"):
        begin(NUMBERS, sampler="tpe")
    assert begin(BRANCHES, sampler="tpe").planned() == 24  # of which 8 differ, as asking shows
    with pytest.raises(ConfigError, match="sweep=tp is no search; did you mean 'tpe'"):
        begin(BRANCHES, sampler="tp")
    with pytest.raises(ConfigError, match=r"sweep\.pruner=ash is no pruner; did you mean 'asha'"):
        begin(BRANCHES, pruner="ash")


def test_a_point_that_cannot_be_made_leaves_its_slot_free(begin: Begin) -> None:
    def broken(choose: Callable[[Axis], str]) -> Point:
        choose(RATE)
        raise ConfigError("planted")

    search = begin(NUMBERS, sampler="random", points=1)
    with pytest.raises(ConfigError, match="planted"):
        search.ask(broken)
    claimed = search.ask(maker(NUMBERS))
    assert claimed is not None
    assert claimed.claims == 2


def test_a_point_ends_exactly_once(begin: Begin) -> None:
    space, points = grid(1)
    search = begin(space)
    search.enqueue(points)
    search.ask()
    assert search.finish(0, FAILED, error="planted: it exploded")
    before = search.points()
    assert not search.finish(0, DONE, 1.0, late=True)
    assert not report(search, 0, 10, 1.0)
    assert search.beat([0]) == [0]
    assert search.reclaim(None) == []
    assert search.points() == before
    assert (before[0].state, before[0].error) == (FAILED, "planted: it exploded")


def test_a_waiting_point_may_be_answered_by_an_earlier_run(begin: Begin) -> None:
    space, points = grid(2)
    search = begin(space)
    search.enqueue(points)
    assert search.finish(0, DONE, 0.25, reused=True)
    assert [claimed.number for claimed in take(search, space)] == [1]
    assert search.points()[0].attributes == {"reused": True}


@pytest.mark.parametrize("value", [None, math.nan])
def test_done_without_a_value_is_failed(begin: Begin, value: float | None) -> None:
    space, points = grid(1)
    search = begin(space)
    search.enqueue(points)
    search.ask()
    search.finish(0, DONE, value)
    (known,) = search.points()
    assert (known.state, known.value) == (FAILED, None)
    assert "without a value" in known.error


def test_the_points_of_dead_workers_come_back_as_they_were(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begin(NUMBERS, sampler="random", points=3)
    lost = [search.ask(maker(NUMBERS)), search.ask(maker(NUMBERS))]
    assert search.reclaim(None) == [0, 1]
    as_another_process(monkeypatch, "another")
    back = list(take(search, NUMBERS))
    assert [c.number for c in back] == [0, 1, 2]
    assert [c.point for c in back[:2]] == [c.point for c in lost if c]
    assert [c.claims for c in back] == [2, 2, 1]
    # The former owner was only asleep: nothing that it says counts any more.
    as_another_process(monkeypatch, "asleep")
    assert not search.finish(0, DONE, 9.0)
    assert search.beat([0, 2]) == [0, 2]
    assert search.points()[0].state == "running"
    as_another_process(monkeypatch, "another")
    assert search.beat([0, 2]) == []
    assert search.finish(0, DONE, 1.0)


def test_only_silent_workers_lose_their_points(begin: Begin) -> None:
    space, points = grid(3)
    search = begin(space)
    search.enqueue(points)
    for _ in points:
        search.ask()
    age(search, [0, 1])
    search.beat([1])
    assert search.reclaim(3600.0) == []
    assert search.reclaim(30.0) == [0]
    claimed = search.ask()
    assert claimed is not None
    assert claimed.number == 0
    assert search.reclaim(30.0) == []  # claiming was a sign of life


def age(search: Search, numbers: list[int]) -> None:
    """Plant signs of life that are ten minutes old."""
    ids = [search._cache.get_trial_id_from_study_id_trial_number(search._study_id, n) for n in numbers]
    with search._database.engine.begin() as connection:
        now = connection.scalar(sqlalchemy.select(sqlalchemy.func.now()))
        assert isinstance(now, datetime)
        then = datetime.fromtimestamp(now.timestamp() - 600)
        table = TrialHeartbeatModel
        connection.execute(sqlalchemy.update(table).where(table.trial_id.in_(ids)).values(heartbeat=then))


def test_steps_are_told_once_and_stop_stays_stop(begin: Begin) -> None:
    space, points = grid(3)
    search = begin(space, pruner="asha")
    search.enqueue(points)
    for _ in points[:2]:
        search.ask()
    assert not report(search, 0, 100, 0.9)
    assert not report(search, 0, 100, 0.1)  # again, after a resume
    assert not report(search, 0, 250, 0.8)
    assert search.points()[0].reports == ((100, 0.9), (250, 0.8))
    assert report(search, 1, 90, 0.2)
    search.reclaim(None)
    back = [search.ask(), search.ask()]
    assert [c.number for c in back if c] == [0, 1]
    assert not report(search, 0, 250, 0.8)
    assert report(search, 1, 90, 0.2), "as was said before its worker died"
    assert report(search, 1, 180, 99.0)
    assert search.finish(1, PRUNED)
    assert search.points()[1].value == 99.0


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_a_pack_is_judged_as_its_points_one_after_another(begin: Begin, pruner: str) -> None:
    space, points = grid(12)
    told = []
    for together in (True, False):
        search = begin(space, pruner=pruner)
        search.enqueue(points)
        for claimed in list(take(search, space, 5)):  # median judges nothing before five have finished
            report(search, claimed.number, 10, 0.5)
            search.finish(claimed.number, DONE, 0.5)
        pack = [claimed.number for claimed in take(search, space, 6)]
        reports = {number: (10, (number * 5 % 7) / 7) for number in pack}
        stops = search.report_all(reports | {11: (10, 0.0)}) if together else set()
        stops |= {number for number, told_now in reports.items() if report(search, number, *told_now)}
        told.append((stops, [(known.state, known.reports) for known in search.points()]))
    assert told[0] == told[1]
    assert 0 < len(told[0][0]) < 6
    assert told[0][1][11] == ("waiting", ())  # a point of nobody is left alone


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_point_of_nothing_but_nan_is_stopped(begin: Begin, pruner: str) -> None:
    space, points = grid(6)
    search = begin(space, pruner=pruner)
    search.enqueue(points)
    for claimed in list(take(search, space, 5)):
        for step in (1, 2, 3):
            report(search, claimed.number, step, 0.1)
        search.finish(claimed.number, DONE, 0.1)
    search.ask()
    assert True in {report(search, 5, step, math.nan) for step in range(9)}
    search.finish(5, PRUNED)
    assert search.points()[5].value is None


def test_without_a_pruner_nothing_is_stopped(begin: Begin) -> None:
    space, points = grid(2)
    search = begin(space)
    search.enqueue(points)
    for claimed in take(search, space):
        assert {report(search, claimed.number, step, -float(claimed.number)) for step in range(9)} == {False}


def test_tpe_avoids_what_diverged(begin: Begin) -> None:
    """Rates over 0.01, a third of the interval, end badly; all others are equally good."""

    def share(state: str) -> float:
        space = Space((), (RATE,))
        search, wild = begin(space, sampler="tpe", points=22), 0
        for claimed in take(search, space):
            bad = float(claimed.point.values["optimizer.lr"]) > 0.01
            search.finish(claimed.number, state if bad else DONE, None if bad else 0.0)
            wild += bad and claimed.number >= 10  # after the random start
        assert {known.state for known in search.points()} == {state, DONE}
        return wild / 12

    assert share(DIVERGED) < 0.25
    assert share(FAILED) > 0.5  # a failure may have any reason: nothing is learnt from it


def test_a_study_that_is_not_there_is_an_error(begin: Begin, url: str) -> None:
    begin(NUMBERS, sampler="random", points=1)
    with pytest.raises(StorageError, match="there is no study 'elsewhere' in"):
        Search.open(url, "elsewhere", Settings(), NUMBERS)


WORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from search_cases import NUMBERS, maker, unsynced
from dlrun.sweeps.nouns import DONE, Settings
from dlrun.sweeps.search import Search

search = Search.open(sys.argv[1], sys.argv[2], Settings(sampler="tpe", points=50, workers=2), NUMBERS)
print("ready", flush=True)
sys.stdin.readline()
done = 0
while done < int(sys.argv[3]) and (claimed := search.ask(maker(NUMBERS))) is not None:
    if sys.argv[5] == "die":
        print(claimed.number, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    assert search.finish(claimed.number, DONE, float(claimed.point.values["optimizer.lr"]), by=os.getpid())
    done += 1
search.close()
print(done)
"""


def start(url: str, name: str, points: int, how: str = "work") -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WORKER, url, name, str(points), str(TESTS), how]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_workers_share_fifty_points_and_a_killed_ones_comes_back(begin: Begin, url: str) -> None:
    search = begin(NUMBERS, "fifty", sampler="tpe", points=50, workers=2)
    workers = [start(url, "fifty", 1, "die"), start(url, "fifty", 25), start(url, "fifty", 25)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    dead, said = workers[0], workers[0].communicate("go\n")[0]
    assert dead.returncode == -signal.SIGKILL
    (lost,) = search.points()
    assert (lost.state, lost.number) == ("running", int(said))
    for worker in workers[1:]:  # both at once, on a machine of any speed
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate()[0] for worker in workers[1:]]
    assert sorted(map(int, outputs)) == [24, 25]  # 49 between them: never one more than there are
    assert search.reclaim(None) == [lost.number]
    claimed = search.ask(maker(NUMBERS))
    assert claimed is not None
    assert (claimed.number, claimed.point, claimed.claims) == (lost.number, lost.point, 2)
    search.finish(claimed.number, DONE, 1.0, by=os.getpid())
    points = search.points()
    assert [(point.number, point.state) for point in points] == [(i, DONE) for i in range(50)]
    assert len({point.point.overrides for point in points}) == 50
    assert len({point.attributes["by"] for point in points}) == 3

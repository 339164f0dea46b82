"""Pruners on learning curves that are known, and importances of functions that are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from dlrun.sweeps.known import Known
from dlrun.sweeps.nouns import DONE, PRUNED, Axis, Settings, Space
from dlrun.sweeps.sampling import (
    SAMPLERS,
    Draft,
    distribution,
    importances,
    make_pruner,
    make_sampler,
    seed_of,
    written,
)
from dlrun.sweeps.search import Search
from search_cases import BRANCHES, NUMBERS, grid, report, take, unsynced

pytestmark = pytest.mark.usefixtures(unsynced.__name__)
POINTS, EVALUATIONS = 15, 9
optuna.logging.set_verbosity(optuna.logging.ERROR)


def quality(number: int) -> int:
    """The points in an order that is neither the best nor the worst first; 14 is the best."""
    return number * 7 % POINTS


def curve(number: int, evaluation: int) -> float:
    """Rises to the point's quality; curves never cross."""
    return quality(number) * (1 - 0.5**evaluation)


def swept(folder: Path, pruner: str, higher_is_better: bool) -> list[Known]:
    space, points = grid(POINTS)
    url = f"sqlite:///{folder}/{higher_is_better}.db"
    # The same name for both: Hyperband draws a point's bracket from it and from the number.
    search = Search.create(url, "sweep", Settings(pruner=pruner), space, higher_is_better)
    search.enqueue(points)
    sign = 1 if higher_is_better else -1
    for claimed in take(search, space):
        for evaluation in range(1, EVALUATIONS + 1):
            step = evaluation * (50 + claimed.number)  # of another size for each point: what counts is evaluations
            if report(search, claimed.number, step, sign * curve(claimed.number, evaluation)):
                search.finish(claimed.number, PRUNED)
                break
        else:
            search.finish(claimed.number, DONE, sign * curve(claimed.number, EVALUATIONS))
    known = search.points()
    search.close()
    return known


def by_optuna_itself(pruner: str) -> list[int]:
    """How many evaluations each point has when Optuna's own loop and storage do it."""
    study = optuna.create_study(study_name="sweep", direction="maximize", pruner=make_pruner(pruner))
    lengths = []
    for number in range(POINTS):
        asked = study.ask()
        for evaluation in range(1, EVALUATIONS + 1):
            asked.report(curve(number, evaluation), evaluation)
            if asked.should_prune():
                study.tell(asked, state=TrialState.PRUNED)
                break
        else:
            study.tell(asked, curve(number, EVALUATIONS))
        lengths.append(evaluation)
    return lengths


@pytest.mark.parametrize(("pruner", "saved"), [("asha", 0.5), ("hyperband", 0.2), ("median", 0.2)])
def test_a_pruner_keeps_the_best_and_saves_evaluations(tmp_path: Path, pruner: str, saved: float) -> None:
    up = swept(tmp_path, pruner, True)
    lengths = [len(point.reports) for point in up]
    assert lengths == by_optuna_itself(pruner)
    pruned = [point for point in up if point.state == PRUNED]
    assert len(pruned) >= POINTS // 4
    assert max(quality(point.number) for point in pruned) < POINTS - 1
    assert sum(lengths) < (1 - saved) * POINTS * EVALUATIONS
    if pruner == "asha":
        assert lengths == [len(point.reports) for point in swept(tmp_path, pruner, False)]
        assert {len(point.reports) for point in pruned} <= {1, 3}  # its rungs are at 1, 3 and 9
    if pruner == "median":
        assert min(point.number for point in pruned) >= 5  # not before five have finished


def trial(number: int, params: dict[str, object], value: float | None, space: Space) -> FrozenTrial:
    kinds = {axis.key: distribution(axis) for axis in space.axes if axis.key in params}
    state = TrialState.FAIL if value is None else TrialState.COMPLETE
    return create_trial(state=state, value=value, params=params, distributions=kinds)


def test_importances_are_shares_and_find_what_matters() -> None:
    axes = (
        Axis("rate", low=1e-5, high=1e-1, log=True),
        Axis("idle", low=0.0, high=1.0),
        Axis("kind", values=("a", "b")),
    )
    space, draws = Space((), axes), np.random.default_rng(0).random((60, 3))
    trials = []
    for i, (x, idle, coin) in enumerate(draws):
        # Linear in the logarithm of the rate: 4 decades, of which only one is most of the interval.
        params = {"rate": 10 ** (-5 + 4 * x), "idle": float(idle), "kind": "a" if coin < 0.5 else "b"}
        trials.append(trial(i, params, 4 * x + (coin < 0.5), space))
    shares = importances(trials, 0)
    assert list(shares) == ["rate", "kind", "idle"]
    assert sum(shares.values()) == pytest.approx(1)
    # The variances are 16/12 and 1/4: shares of 0.84 and 0.16; a forest of 60 points is good for a tenth.
    assert shares["rate"] == pytest.approx(0.84, abs=0.1)
    assert shares["idle"] < 0.05
    assert importances(trials, 0) == shares


@pytest.mark.parametrize(
    "values",
    [[], [1.0, 2.0, 3.0], [1.0] * 8, [None] * 8, [math.inf, -math.inf] * 4],
    ids=["0", "3", "same", "failed", "inf"],
)
def test_importances_are_empty_where_there_is_nothing_to_tell(values: list[float | None]) -> None:
    space, _ = grid(10)
    assert importances([trial(i, {"x": str(i)}, value, space) for i, value in enumerate(values)], 0) == {}


def test_importances_of_a_space_with_branches_are_of_what_all_points_have() -> None:
    def params(i: int) -> dict[str, object]:
        return {"model": "svm", "model.gamma": "0.1"} if i % 2 else {"model": "cnn", "model.depth": "1"}

    assert importances([trial(i, params(i), float(i % 2), BRANCHES) for i in range(8)], 0) == {"model": 1.0}
    assert importances([trial(i, {"model.depth": "1"}, float(i), BRANCHES) for i in range(8)], 0) == {}


def test_seeds_of_neighbours_do_not_coincide() -> None:
    assert (
        len({seed_of(seed, number, attempt) for seed in range(20) for number in range(20) for attempt in range(4)})
        == 1600
    )


@given(st.floats(1e-300, 1e300))
def test_a_float_is_written_so_that_it_reads_back(value: float) -> None:
    text = written(Axis("x", low=1e-300, high=1e300), value)
    assert float(text) == value


def test_values_are_written_as_on_the_command_line() -> None:
    assert written(Axis("x", low=0, high=9, integer=True), 3.0) == "3"
    assert written(Axis("x", values=("[64,64]", "[32]")), "[64,64]") == "[64,64]"


def test_a_value_is_the_same_when_asked_for_again() -> None:
    study = optuna.create_study(sampler=make_sampler("random", 0, NUMBERS))
    study.ask()
    draft = Draft(study, study.trials[0])
    assert [draft.choose(axis) for axis in NUMBERS.axes] == [draft.choose(axis) for axis in NUMBERS.axes]
    assert list(draft.params) == [axis.key for axis in NUMBERS.axes]
    assert study.trials[0].params == {}  # written nowhere


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_samplers_give_no_warning_and_stay_inside(sampler: str) -> None:
    axis = Axis("x", low=1.5, high=4.5, integer=True)
    space = Space((), (axis,))
    study = optuna.create_study(sampler=make_sampler(sampler, 1, space))
    seen = set()
    for _ in range(30):
        asked = study.ask()
        seen.add(Draft(study, study.trials[asked.number]).choose(axis))
        study.tell(asked, 0.0)
    assert seen == {"2", "3", "4"}

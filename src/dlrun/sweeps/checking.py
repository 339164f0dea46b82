"""Every point composed and checked as ``dlrun train`` would, before the first trial starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlrun.build import Experiment, Found, check
from dlrun.errors import ConfigError, DlrunError, did_you_mean
from dlrun.many_devices import check_started
from dlrun.sweeps.nouns import Point
from dlrun.sweeps.points import Composer
from dlrun.tasks import HIGHER_IS_BETTER, Monitor
from dlrun.training.peers import ALONE

PART = "val"  # points are ranked on what is held out; the test part is for the last word


@dataclass(frozen=True)
class Checked:
    """What all points of a sweep agree on.

    Attributes:
        metric: what they are ranked by, such as ``val/accuracy``.
        higher_is_better: its direction.
        first: the first point's experiment, under the first seed.
    """

    metric: str
    higher_is_better: bool
    first: Experiment


def check_points(
    composer: Composer,
    points: Sequence[Point],
    seeds: Sequence[int],
    *,
    trusted: Sequence[str] = (),
    metric: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checked:
    """Compose and check points; nothing is read that ``dlrun train`` would not read before it starts.

    Every point is checked under the first seed, and the first point under all: seeds are whole numbers in their range
    already, and nothing but the initial weights and the order of the data depends on them.

    Args:
        composer: of the sweep's config files.
        points: all points of a finite space, or those of ``Composer.sample``.
        seeds: every point is run under each of them.
        trusted: packages that may be named in ``_target_``.
        metric: what to rank by; ``auto`` is what chooses a run's best checkpoint.
        progress: told how many are checked, of how many.

    Raises:
        DlrunError: the first mistake, of the kind that ``dlrun train`` would raise, with its point and with how many
            other points are wrong; a metric that a point does not have, or points with different ones.
    """
    jobs = [(number, point, seeds[0]) for number, point in enumerate(points)]
    jobs[1:1] = [(0, points[0], seed) for seed in seeds[1:]]
    first: Experiment | None = None
    found = Found()  # most points share their data, and many their network
    goals: dict[Monitor, int] = {}  # with the first point that has it
    mistakes: dict[int, DlrunError] = {}
    for done, (number, point, seed) in enumerate(jobs, start=1):
        try:
            experiment = check(composer.config(point, seed), trusted, found)
            check_started(experiment, ALONE)
            goals.setdefault(_goal(experiment, metric), number)
            first = first or experiment
        except DlrunError as error:
            mistakes.setdefault(number, error)
        progress(done, len(jobs))
    if mistakes:
        raise _told(points, mistakes)
    if len(goals) > 1:
        names = " and ".join(f"{PART}/{goal.metric} (point {number})" for goal, number in goals.items())
        raise ConfigError(f"the points are ranked by {names}: set sweep.metric to one that all of them have")
    assert first is not None  # there is at least one point, and it has no mistake
    [goal] = goals
    return Checked(f"{PART}/{goal.metric}", goal.higher_is_better, first)


def _goal(experiment: Experiment, metric: str) -> Monitor:
    """What a point is ranked by."""
    if not experiment.facts.sizes.get(PART):
        raise ConfigError("a sweep ranks by the validation part, but nothing is held out; set data.val=0.1")
    names = experiment.task.metric_names()
    if metric == "auto":
        return experiment.settings.goal(experiment.task.monitor, names)
    name = metric.removeprefix(f"{PART}/")
    if name not in names:
        hint = did_you_mean(name.rpartition("/")[2], [f"{PART}/{known}" for known in names])
        raise ConfigError(f"sweep.metric={metric}: a sweep ranks by a metric of the validation part{hint}")
    return Monitor(name, HIGHER_IS_BETTER[name])


def _told(points: Sequence[Point], mistakes: dict[int, DlrunError]) -> DlrunError:
    """The first mistake with its point, and how many points have one."""
    number, error = next(iter(mistakes.items()))
    values, text = points[number].values, str(error)
    broken = [key for key, value in values.items() if f"{key}={value}:" in text and "." in value]
    if broken and "whole number" in text:
        text += f"; for whole numbers write {broken[0]}=int(interval(low,high))"
    where = f"point {number} ({points[number].label}): " if values else ""
    others = len(mistakes) - 1
    more = f" ({others} more of the {len(points)} points that were checked are wrong)" if others else ""
    return type(error)(f"{where}{text}{more}")

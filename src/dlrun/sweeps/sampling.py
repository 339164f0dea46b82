"""Which point next, when to stop one, what mattered: Optuna's samplers, pruners, importances, as a sweep wants them.

Every proposal is made by a new sampler whose seed is a function of the sweep's seed and the point's number, and by
what is known of the other points; nothing is kept in a process. Hence:

- random: a point's proposal depends on its number alone: the same on any number of workers, and after any resume;
- tpe, cmaes: the same proposals for one worker, whether the sweep was killed and resumed or not; with several workers
  the order in which results come in decides, as it must.

Differs from Optuna's defaults in: 1. samplers see the points of all brackets of Hyperband, where Optuna would show
them those of one: 30 points in 4 brackets would never leave the start-up of TPE; 2. CMA-ES leaves lists and
groups to TPE, not to chance; 3. a pruner's steps are evaluations, counted 1, 2, 3, ..., and rungs are a factor of 3
apart (1, 3, 9, 27), since a run has 30 evaluations at most unless told otherwise.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, BruteForceSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dlrun.errors import ConfigError, did_you_mean
from dlrun.sweeps.nouns import Axis, Settings, Space

SAMPLERS = ("grid", "random", "tpe", "cmaes")
PRUNERS = ("none", "asha", "hyperband", "median")
RUNGS = 3  # ratio of evaluations between the rungs of asha and hyperband, and of points that pass one
ENOUGH = 4  # finished points from which importances mean anything


def make_sampler(name: str, seed: int, space: Space) -> BaseSampler:
    """The sampler for one proposal; raises ConfigError for a name that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        tpe = TPESampler(seed=seed, multivariate=True, group=any(axis.group for axis in space.axes))
        if name == "tpe":
            return tpe
        if name == "cmaes":
            return CmaEsSampler(seed=seed, independent_sampler=tpe, warn_independent_sampling=False)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "untried":
            return BruteForceSampler(seed=seed)
    raise ConfigError(f"sweep={name} is no search{did_you_mean(name, SAMPLERS)}")


def make_pruner(name: str) -> BasePruner:
    """The pruner of that name; raises ConfigError for a name that is none.

    asha: at evaluations 1, 3, 9, ... the best third of all that came so far goes on. hyperband: the same from
    different first evaluations; it stops nothing before a first point has finished and so told how long runs are.
    median: from five finished points on, what is worse than their median at the same evaluation stops.
    """
    if name == "none":
        return NopPruner()
    if name == "asha":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=RUNGS)
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=RUNGS)
    if name == "median":
        return MedianPruner()
    raise ConfigError(f"sweep.pruner={name} is no pruner{did_you_mean(name, PRUNERS)}")


def slots(settings: Settings, space: Space) -> int:
    """How many points a sampler is to propose, at most; raises ConfigError when nothing says how many."""
    make_sampler(settings.sampler, 0, space)
    if not space.finite and settings.points is None:
        raise ConfigError(f"sweep={settings.sampler} needs to know how many points to try; add sweep.trials=30")
    there = math.prod(len(axis.values) for axis in space.axes) if space.finite else math.inf
    return int(min(there, math.inf if settings.points is None else settings.points))


def seed_of(*parts: int) -> int:
    """A seed of 32 bits; unlike a sum, different parts give different seeds."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:4], "big")


def distribution(axis: Axis) -> BaseDistribution:
    """The axis in Optuna's terms."""
    if axis.low is None or axis.high is None:
        return CategoricalDistribution(axis.values)
    if axis.integer:
        return IntDistribution(math.ceil(axis.low), math.floor(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def written(axis: Axis, value: Any) -> str:
    """A value as it stands after the ``=`` of an override."""
    if axis.finite:
        return str(value)
    return str(int(value)) if axis.integer else repr(float(value))


class Draft:
    """One proposal, made in memory as its axes are asked for, and written nowhere before it is accepted."""

    def __init__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._study = study
        self._trial = copy.deepcopy(trial)
        self._together: dict[str, Any] | None = None

    @property
    def params(self) -> dict[str, tuple[Any, BaseDistribution]]:
        """What has been chosen, by key."""
        return {key: (value, self._trial.distributions[key]) for key, value in self._trial.params.items()}

    def choose(self, axis: Axis) -> str:
        """The value of one axis, as written; the same again when asked again."""
        wanted = distribution(axis)
        if axis.key not in self._trial.params:
            value = self._sample(axis.key, wanted)
            self._trial.params[axis.key] = value
            self._trial.distributions[axis.key] = wanted
        return written(axis, self._trial.params[axis.key])

    def _sample(self, key: str, wanted: BaseDistribution) -> Any:
        sampler = self._study.sampler
        if self._together is None:
            known = sampler.infer_relative_search_space(self._study, self._trial)
            self._together = sampler.sample_relative(self._study, self._trial, known)
        if key in self._together:
            return self._together[key]
        return sampler.sample_independent(self._study, self._trial, key, wanted)


class Snapshot:
    """The trials of a study as they were just read, in place of its storage, for a pruner.

    A pruner reads all trials at every evaluation, which from a database costs more than a small network's epoch. This
    way a whole pack's evaluations are judged on one reading. What the pruner notes stays out of the trials while it
    judges, as in a storage: it would count the trial's own value twice.
    """

    def __init__(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> None:
        self._trials = {trial._trial_id: trial for trial in trials}
        self._direction = direction
        self.notes: dict[str, Any] = {}

    def get_study_id_from_name(self, study_name: str) -> int:
        """As of a storage."""
        return 0

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """As of a storage."""
        return [self._direction]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Sequence[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As of a storage, but never copies."""
        return [trial for trial in self._trials.values() if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As of a storage, but kept aside."""
        self.notes[key] = value


def wants_to_stop(pruner: BasePruner, name: str, snapshot: Snapshot, trial: FrozenTrial) -> tuple[bool, dict[str, Any]]:
    """What the pruner says of one of the trials, whose last intermediate value is new, and what it notes on it.

    ``name`` is the study's. The notes are in the trial afterwards, for the trials judged after it.
    """
    storage: Any = snapshot
    snapshot.notes = {}
    study = optuna.load_study(study_name=name, storage=storage, sampler=RandomSampler(0), pruner=pruner)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # numpy's, on a trial that has only NaN
        stop = pruner.prune(study, trial)
    trial.system_attrs.update(snapshot.notes)
    return stop, snapshot.notes


def importances(trials: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    """How much of the variance of the value each axis explains (fANOVA), as shares that sum to 1, the largest first.

    Only axes that every finished point has are compared, a log interval on its own scale. Empty where there is nothing
    to tell: fewer than four finished points, no two different values, or nothing that all points share.
    """
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None and math.isfinite(t.value)]
    if len(done) < ENOUGH or len({t.value for t in done}) < 2:
        return {}
    shared = {key: kind for key, kind in done[0].distributions.items() if all(key in t.params for t in done)}
    varied = {key: kind for key, kind in shared.items() if len({t.params[key] for t in done}) > 1}
    if not varied:
        return {}
    scales = {key: _scaled(kind) for key, kind in varied.items()}
    plain = optuna.create_study()
    for trial in done:
        params = {k: math.log(trial.params[k]) if _is_log(varied[k]) else trial.params[k] for k in varied}
        plain.add_trial(optuna.trial.create_trial(value=trial.value, params=params, distributions=scales))
    judge = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    shares = optuna.importance.get_param_importances(plain, evaluator=judge)
    return {key: float(share) for key, share in shares.items()}


def _is_log(kind: BaseDistribution) -> bool:
    return isinstance(kind, FloatDistribution | IntDistribution) and kind.log


def _scaled(kind: BaseDistribution) -> BaseDistribution:
    if isinstance(kind, FloatDistribution | IntDistribution) and kind.log:
        return FloatDistribution(math.log(kind.low), math.log(kind.high))
    return kind

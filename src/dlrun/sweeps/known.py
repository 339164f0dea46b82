"""What a study says of one point, and how a point is written in an Optuna trial.

All that is ours stands in a trial's user attributes, under the names below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from dlrun.sweeps import nouns
from dlrun.sweeps.nouns import Point

POINT = "point"  # its values and overrides; a slot that was not filled yet has none
SURPLUS = "surplus"  # a slot for which the space had no point left
OWNER = "owner"  # the process that has it
CLAIMS = "claims"  # how often it has been handed out
STEPS = "steps"  # the optimizer steps of its evaluations: the first is Optuna's step 1, and so on
STOP = "stop"  # the pruner has said stop
STATE = "state"  # how it ended, in our words
ERROR = "error"
ATTRIBUTES = "attributes"  # of the caller

WORDS = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: nouns.DONE,
    TrialState.PRUNED: nouns.PRUNED,
    TrialState.FAIL: nouns.FAILED,
}
# Samplers forget a failed trial and would go on proposing its neighbours; of a pruned one they learn that it is bad.
STORED = {word: state for state, word in WORDS.items() if state.is_finished()} | {nouns.DIVERGED: TrialState.PRUNED}


@dataclass(frozen=True)
class Claimed:
    """A point that this process is to carry out.

    Attributes:
        number: of the point.
        point: its values and overrides.
        claims: how often it has been handed out, this time included: more than 1 after a worker died with it.
    """

    number: int
    point: Point
    claims: int = 1


@dataclass(frozen=True)
class Known:
    """What the study knows of one point.

    Attributes:
        number: of the point.
        state: ``waiting``, ``running`` or one of ``nouns.TERMINAL``.
        point: its values and overrides.
        value: of the point once it is done; the last one reported where it was pruned.
        error: a sentence where it failed.
        claims: how often it has been handed out.
        reports: (optimizer step, value) of its first seed's evaluations, in their order.
        attributes: what `Search.finish` was given beside.
    """

    number: int
    state: str
    point: Point
    value: float | None = None
    error: str = ""
    claims: int = 0
    reports: tuple[tuple[int, float], ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def as_json(point: Point) -> dict[str, Any]:
    """A point as it is stored."""
    return {"values": point.values, "overrides": list(point.overrides)}


def point_of(trial: FrozenTrial) -> Point | None:
    """The point in a trial; None for a slot that is not filled."""
    content = trial.user_attrs.get(POINT)
    return Point(dict(content["values"]), tuple(content["overrides"])) if content else None


def known_of(trial: FrozenTrial) -> Known | None:
    """All that a trial says of its point; None for a slot that is not filled."""
    point, kept = point_of(trial), trial.user_attrs
    if point is None:
        return None
    return Known(
        number=trial.number,
        state=kept[STATE] if trial.state.is_finished() else WORDS[trial.state],
        point=point,
        value=trial.value,
        error=kept.get(ERROR, ""),
        claims=kept.get(CLAIMS, 0),
        reports=tuple((step, trial.intermediate_values[i]) for i, step in enumerate(kept.get(STEPS, []), 1)),
        attributes=kept.get(ATTRIBUTES, {}),
    )

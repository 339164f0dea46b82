"""Who takes a trainer's steps and how evaluation sees the network: the loop itself, or an engine that records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from dlrun.engines import Engine
from dlrun.engines.recorded_evaluation import RecordedEvaluation
from dlrun.engines.recorded_steps import RecordedSteps
from dlrun.engines.recording import GaveUp, Recorder, Ungraphable
from dlrun.training.evaluation import Viewed
from dlrun.training.taking import Take, one_step


@runtime_checkable
class Records(Protocol):
    """An engine whose steps may be recorded and replayed.

    Attributes:
        sizes: steps in one recording, from the largest to 1.
        short: seconds under which a step is recorded with others.
    """

    sizes: Sequence[int]
    short: float

    def recorder(self, device: torch.device) -> Recorder | None:
        """What records on this device; None where the engine does without.

        Raises:
            Ungraphable: nothing does, and the user is to know.
        """
        ...


@dataclass(frozen=True)
class TakeAndView:
    """What a trainer needs of an engine beside its step."""

    take: Take
    viewed: Viewed


def take_and_view(
    engine: Engine,
    device: torch.device,
    viewed: Viewed,
    note: Callable[[GaveUp], None],
    before: GaveUp | None = None,
    start: int = 0,
) -> TakeAndView:
    """How a trainer takes its steps and views its network with this engine on a device.

    Args:
        viewed: the network as evaluation sees it without recordings.
        note: told from where on and why the run goes on without recordings, when it does.
        before: what an earlier process of the run told so.
        start: the step that the run goes on from.
    """
    if not isinstance(engine, Records):
        return TakeAndView(one_step, viewed)
    try:
        steps, evaluations = engine.recorder(device), engine.recorder(device)  # each with memory of its own
    except Ungraphable as reason:
        note(GaveUp(start, str(reason)))
        steps = evaluations = None
    if steps is None or evaluations is None:
        return TakeAndView(one_step, viewed)
    given_up = before is not None and before.step <= start
    take = one_step if given_up else RecordedSteps(steps, note, engine.sizes, engine.short, before).take
    return TakeAndView(take, RecordedEvaluation(evaluations, viewed))

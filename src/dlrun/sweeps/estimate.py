"""About how long a sweep would take, from a few steps of its first point."""

from __future__ import annotations

from dataclasses import dataclass

from dlrun.loading import load
from dlrun.session import prepare_process
from dlrun.sweeps.measuring import one_alone
from dlrun.sweeps.plan import Plan


@dataclass(frozen=True)
class Estimate:
    """How long a sweep would take.

    Attributes:
        steps: of one trial; None where a budget of time ends it.
        step_seconds: of one step.
        seconds: of all trials, shared out among the workers; evaluations are not counted.
    """

    steps: int | None
    step_seconds: float
    seconds: float


def estimate(plan: Plan) -> Estimate:
    """Measure a few steps of the first point; the data are read, nothing is written.

    Raises:
        DataError: the data cannot be read.
    """
    experiment = plan.checked.first
    prepare_process(experiment)
    loaded = load(experiment)
    step = one_alone(experiment, loaded)
    lengths = experiment.settings.plan(len(loaded.train), 1)
    trial = lengths.budget or float("inf")
    if lengths.total_steps is not None:
        trial = min(trial, lengths.total_steps * step)
    return Estimate(lengths.total_steps, step, trial * plan.trials / plan.settings.workers)

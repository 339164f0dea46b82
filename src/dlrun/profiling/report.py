"""What a profile says: the parts of a step, the cost of what happens now and then, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlrun.profiling.clock import ROOT, Key
from dlrun.profiling.flops import Work
from dlrun.profiling.operators import Operators
from dlrun.profiling.peaks import Peak
from dlrun.profiling.phases import AVERAGE, DATA, STEP, WATCH
from dlrun.profiling.timings import Span, Timings
from dlrun.profiling.trials import Trials

LOGGING, LOOP, RESIDUE = "logging and saving", "the loop itself", "not accounted for"
TOLERANCE = 0.05
ONE_PIECE = "one program"  # of an engine: nothing can be told apart in it from outside
OF_OPTIMIZER = ("zero_grad", "clip", "optimizer")
ORDER = ("forward", "positive phase", "negative phase", "layer's contrastive divergence", "backward", "optimizer")


@dataclass(frozen=True)
class Part:
    """One part of a step; seconds per step.

    Attributes:
        group: the network it is of, where several take turns.
        share: of the whole step.
        details: what it is made of, where it has names.
    """

    name: str
    group: str
    seconds: Span
    share: float
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A step with its share of rows and checkpoints, and what it is made of.

    Attributes:
        seconds: of the whole step, timed as it is but for the rows and checkpoints, which are shared out evenly.
        parts: they add up to it; the last one is what is left over.
        tolerance: what may be left over, either way, as a share: 5 %, or how far the steps themselves differed.
    """

    seconds: float
    parts: list[Part]
    tolerance: float

    @property
    def left_over(self) -> float:
        """Share of the step that no part took; below 0 where the parts took more."""
        return self.parts[-1].share

    @property
    def in_one_piece(self) -> bool:
        """Whether an engine takes forward and backward pass as one program."""
        return any(part.name == ONE_PIECE for part in self.parts)

    def share(self, name: str) -> float:
        """Share of all parts of this name."""
        return sum(part.share for part in self.parts if part.name == name)


@dataclass(frozen=True)
class Verdict:
    """The sentence a person reads first.

    Attributes:
        words: what to set; empty where nothing measured helps.
        command: with them.
        estimate: how many times as fast it would be.
        kind: "measured" or "bound": at most, were the cause gone.
        caution: what else the words change.
        also: sentences on what else was found.
    """

    sentence: str
    words: tuple[str, ...] = ()
    command: str = ""
    estimate: float | None = None
    kind: str = ""
    caution: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Everything that ``dlrun profile`` found out."""

    about: dict[str, Any]
    timings: Timings
    step: Step
    evaluate_every: int
    work: Work | None
    peak: Peak
    operators: Operators
    trials: Trials
    verdict: Verdict
    method: str
    trace: Path | None = None
    notes: list[str] = field(default_factory=list)
    inside: Step | None = None  # the same step without the engine, where the engine's step is one piece

    @property
    def evaluation_share(self) -> float:
        """Share of the training's time that evaluations take."""
        seconds = sum(self.timings.evaluation.values())
        return seconds / (seconds + self.evaluate_every * self.step.seconds)

    @property
    def rate(self) -> float | None:
        """The model's operations a second."""
        return self.work.per_step / self.step.seconds if self.work is not None else None


def split(timings: Timings, log_every: int, save_every: int | None, save_share: float, longest: float) -> Step:
    """The parts of a step.

    Args:
        log_every: steps between rows.
        save_every: steps between checkpoints; None where they may take ``save_share`` of the time, and come at least
            every ``longest`` seconds.
    """
    every = {name: amount / log_every for name, amount in timings.rows.items()}
    if timings.checkpoint is not None:
        seconds = min(longest, max(1.0, timings.checkpoint / save_share))
        per_step = timings.bare.middle / seconds if save_every is None else 1 / save_every
        every["checkpoints"] = every.get("checkpoints", 0.0) + timings.checkpoint * per_step
    occasions = sum(every.values())
    whole = timings.bare.middle + occasions
    watched = {name: found for (group, name), found in timings.phases.items() if group == WATCH}
    details = {name: every.get(name, 0.0) + (watched[name].middle if name in watched else 0.0) for name in every}
    details |= {name: found.middle for name, found in watched.items() if name not in details}
    others = {key: found for key, found in timings.phases.items() if key[0] != WATCH}
    parts = _of_steps(others, whole)
    if details:
        logging = _added([Span(occasions, occasions, occasions), *watched.values()])
        parts.insert(-1, Part(LOGGING, "", logging, logging.middle / whole, details))
    left = whole - sum(part.seconds.middle for part in parts)
    parts.append(Part(RESIDUE, "", Span(left, left, left), left / whole))
    noise = (timings.bare.high - timings.bare.low) / timings.bare.middle if timings.bare.middle else 0.0
    return Step(whole, parts, max(TOLERANCE, noise))


def _of_steps(phases: dict[Key, Span], whole: float) -> list[Part]:
    """Parts in the order in which a step goes through them; zeroing, clipping and moving are one, as are the rests."""
    seen = any(name in ORDER and name != "optimizer" and found.middle > 0 for (_, name), found in phases.items())
    loop = [ROOT, *([STEP] if seen else []), *([AVERAGE] if _small(phases, whole) else [])]
    parts = [_part(DATA[1], "", {DATA[1]: phases[DATA]}, whole)] if DATA in phases else []
    for group in dict.fromkeys(group for group, _ in phases):
        own = {name: found for (of, name), found in phases.items() if of == group}
        for name in ORDER:
            names = OF_OPTIMIZER if name == "optimizer" else (name,)
            found = {n: own[n] for n in names if n in own}
            if any(s.middle > 0 for s in found.values()):
                parts.append(_part(name, group, found, whole))
    if STEP in phases and not seen:
        parts.insert(min(1, len(parts)), _part(ONE_PIECE, "", {STEP[1]: phases[STEP]}, whole))
    if AVERAGE in phases and AVERAGE not in loop:
        parts.append(_part(AVERAGE[1], "", {AVERAGE[1]: phases[AVERAGE]}, whole))
    rest = {name: phases[group, name] for group, name in loop if (group, name) in phases}
    return [*parts, _part(LOOP, "", rest, whole)]


def _small(phases: dict[Key, Span], whole: float) -> bool:
    return AVERAGE in phases and phases[AVERAGE].middle < 0.005 * whole


def _part(name: str, group: str, found: dict[str, Span], whole: float) -> Part:
    seconds = _added(list(found.values()))
    details = {n: s.middle for n, s in found.items()} if len(found) > 1 and name == "optimizer" else {}
    return Part(name, group, seconds, seconds.middle / whole if whole else 0.0, details)


def _added(spans: Sequence[Span]) -> Span:
    return Span(sum(s.middle for s in spans), sum(s.low for s in spans), sum(s.high for s in spans))


def as_json(profile: Profile) -> dict[str, Any]:
    """The profile as plain values; times in seconds, shares from 0 to 1."""
    timings, step, work, operators = profile.timings, profile.step, profile.work, profile.operators
    return {
        "about": profile.about,
        "method": profile.method,
        "measured": {
            "steps": timings.steps,
            "blocks": timings.blocks,
            "step": asdict(timings.bare),
            "stamped_step": asdict(timings.stamped),
            "stamping": timings.cost,
        },
        "step": _step_json(step),
        "inside": None if profile.inside is None else _step_json(profile.inside),
        "evaluation": {
            "seconds": sum(timings.evaluation.values()),
            "every_steps": profile.evaluate_every,
            "share": profile.evaluation_share,
            "first": timings.evaluation_is_first,
            "parts": timings.evaluation,
        }
        if timings.evaluation
        else None,
        "once": {"start": timings.start, "first_step": timings.first_step} | profile.about["once"],
        "work": None if work is None else _work_json(work),
        "rate": {
            "flops_per_second": profile.rate,
            "peak": profile.peak.flops,
            "peak_source": profile.peak.source,
            "share": None if profile.rate is None else profile.rate / profile.peak.flops,
        },
        "operators": asdict(operators),
        "tried": [asdict(trial) | {"clear": trial.clear} for trial in profile.trials.tried],
        "workers_tried": [asdict(source) for source in profile.trials.sources],
        "left_out": profile.trials.left_out,
        "fixed_share": profile.trials.fixed,
        "verdict": asdict(profile.verdict),
        "trace": profile.trace,
        "notes": profile.notes,
    }


def _step_json(step: Step) -> dict[str, Any]:
    parts = [asdict(part) for part in step.parts]
    within = abs(step.left_over) <= step.tolerance
    return {"seconds": step.seconds, "parts": parts, "tolerance": step.tolerance, "adds_up": within}


def _work_json(work: Work) -> dict[str, Any]:
    return {
        "flops_per_step": work.per_step,
        "flops_per_example": work.per_step / work.examples,
        "examples": work.examples,
        "phases": [{"group": group, "name": name, "flops": n} for (group, name), n in work.flops.items()],
        "layers": [{"name": name, "flops": n} for name, n in work.layers],
        "uncounted": [{"name": name, "calls": n} for name, n in work.uncounted],
        "parameters": work.parameters[0],
        "fixed_parameters": work.parameters[1],
        "bytes": {
            "weights": work.weights,
            "gradients": work.gradients,
            "optimizer": work.optimizer,
            "activations": work.activations,
        },
    }

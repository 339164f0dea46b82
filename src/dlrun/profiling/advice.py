"""One sentence on where the time goes, and the setting that helps most: measured, or bounded by what was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from dlrun.data.facts import Facts
from dlrun.profiling.operators import Operators
from dlrun.profiling.phases import DATA
from dlrun.profiling.report import LOGGING, Step, Verdict
from dlrun.profiling.sources import best
from dlrun.profiling.timings import Timings
from dlrun.profiling.trials import Trial, Trials
from dlrun.training.data_wait import free_memory, remedies

WAITING, LOGGED, EVALUATING, FIXED, IDLE = 0.2, 0.05, 0.2, 0.5, 0.5  # shares worth a word
PACKING = 1.5  # times as fast


@dataclass(frozen=True)
class Finding:
    """A cause, what would remove it, and how many times as fast the training would be."""

    sentence: str
    words: tuple[str, ...]
    estimate: float
    kind: str
    caution: str = ""

    @property
    def spoken(self) -> str:
        """The cause, then what helps."""
        if self.kind == "bound":
            return f"{self.sentence} (without it the training would be at most {times(self.estimate)} as fast)"
        return f"{self.sentence} (the training: {times(self.estimate)})"


@dataclass(frozen=True)
class Seen:
    """What the advice goes by."""

    step: Step
    timings: Timings
    evaluation_share: float
    evaluate_every: int
    log_every: int
    operators: Operators
    trials: Trials
    facts: Facts
    workers: int | None
    peak_share: float | None
    on_device: bool


def verdict(seen: Seen, words: Sequence[str]) -> Verdict:
    """The heaviest finding first; ``words`` are those the profile was asked with."""
    found = sorted(findings(seen), key=lambda finding: -finding.estimate)
    also = [finding.spoken for finding in found[1:]] + _for_sweeps(seen.trials)
    if not found:
        return Verdict(_nothing(seen), also=tuple(also))
    best = found[0]
    command = " ".join(["dlrun train", *_without(words, best.words), *best.words]) if best.words else ""
    return Verdict(best.sentence, best.words, command, best.estimate, best.kind, best.caution, tuple(also))


def findings(seen: Seen) -> list[Finding]:
    """Everything worth a word, in no order."""
    trained = 1 - seen.evaluation_share
    found = [*_waiting(seen, trained), *_logging(seen, trained), *_evaluating(seen)]
    for trial in seen.trials.tried:
        if trial.clear and "launcher=packed" not in trial.words:
            # What was tried is the step without its loop and occasions, so the whole gains less.
            tried = trained * sum(p.share for p in seen.step.parts if p.name not in (LOGGING, DATA[1]))
            whole = 1 / (1 - tried + tried / trial.gain.middle)
            found.append(Finding(_tried(seen, trial), trial.words, whole, "measured", trial.caution))
    return found


def _waiting(seen: Seen, trained: float) -> list[Finding]:
    share = seen.step.share(DATA[1])
    if share < WAITING:
        return []
    if seen.workers is None:
        where = "the batches are made in memory, by indexing and augmentation"
        return [Finding(f"data wait is {share:.0%} of a step: {where}", (), _without_share(share * trained), "bound")]
    rest = seen.step.seconds * (1 - share)
    faster = best(seen.trials.sources, rest)
    if faster is not None:
        source, gain = faster
        now = seen.trials.sources[0]
        speeds = f"read alone, a batch takes {source.seconds * 1e3:,.1f} ms by {source.workers} workers"
        sentence = f"data wait is {share:.0%} of a step: {speeds}, {now.seconds * 1e3:,.1f} ms by {now.workers} as now"
        whole = 1 / (1 - trained + trained / gain)
        return [Finding(sentence, (f"trainer.workers={source.workers}",), whole, "measured")]
    helps = remedies(seen.facts, seen.workers, os.cpu_count() or 1, free_memory())
    first = helps.split(" ")[0].rstrip(",")
    words = (first,) if "=" in first else ()
    sentence = f"data wait is {share:.0%} of a step: {helps}"
    return [Finding(sentence, words, _without_share(share * trained), "bound")]


def _logging(seen: Seen, trained: float) -> list[Finding]:
    part = next((part for part in seen.step.parts if part.name == LOGGING), None)
    if part is None or part.share < LOGGED:
        return []
    name, seconds = max(part.details.items(), key=lambda item: item[1], default=("", 0.0))
    words = {
        "checkpoints": ("trainer.checkpoint_every=auto",),
        **dict.fromkeys(("row", "history", "TensorBoard"), (f"tracking.every={10 * seen.log_every}",)),
    }.get(name, ())
    sentence = f"logging and saving are {part.share:.0%} of a step, most of it {name} ({seconds * 1e6:,.0f} us a step)"
    return [Finding(sentence, words, _without_share(part.share * trained), "bound")]


def _evaluating(seen: Seen) -> list[Finding]:
    share = seen.evaluation_share
    if share < EVALUATING:
        return []
    words = (f"trainer.evaluate_steps={10 * seen.evaluate_every}",)
    sentence = f"evaluation is {share:.0%} of the training's time, one every {seen.evaluate_every:,} steps"
    return [Finding(sentence, words, 1 / (1 - 0.9 * share), "bound")]


def _tried(seen: Seen, trial: Trial) -> str:
    """Why a way that was tried helps, and how much."""
    word, gain = trial.words[0], trial.gain
    many = f"{' '.join(trial.words)} takes the step {times(gain.middle)} as fast ({gain.low:.2f} to {gain.high:.2f})"
    if word.startswith("trainer.threads="):
        count = int(word.partition("=")[2])
        why = "more threads than this get in each other's way" if count == 1 else "there are cores to spare"
        return f"{why}: {many}"
    if word.startswith("trainer.batch_size="):
        busy = seen.operators.busy / seen.timings.bare.middle
        if seen.on_device and busy < IDLE:
            calls = seen.operators.kernel_calls
            why = f"the step is launch-bound: its {calls:,.0f} kernels keep the GPU busy {busy:.0%} of the time"
        elif (seen.trials.fixed or 0.0) >= FIXED:
            fixed = f"{seen.trials.fixed:.0%} of the step does not depend on its batch"
            why = f"{fixed}: the arithmetic is shorter than the Python around it"
        else:
            why = "part of the step does not depend on its batch"
        return f"{why}; {many}, example by example"
    return many


def _for_sweeps(trials: Trials) -> list[str]:
    """What packing trials of a sweep gains."""
    return [
        f"{trial.caution}: {times(trial.gain.middle)} as fast (measured): dlrun sweep {' '.join(trial.words)}"
        for trial in trials.tried
        if "launcher=packed" in trial.words and trial.gain.middle >= PACKING
    ]


def _nothing(seen: Seen) -> str:
    part = max(seen.step.parts, key=lambda part: part.share)
    name = f"{part.group} {part.name}".strip()
    reached = "" if seen.peak_share is None else f"; the step reaches {seen.peak_share:.1%} of the device's peak"
    tried = "nothing that was tried is clearly faster" if seen.trials.tried else "nothing else was tried"
    return f"nothing stands in the way: the largest part is {name}, {part.share:.0%} of a step{reached}; {tried}"


def _without_share(share: float) -> float:
    return 1 / max(0.01, 1 - share)


def _without(words: Sequence[str], new: Sequence[str]) -> list[str]:
    """The words that the new ones do not replace."""
    keys = {word.partition("=")[0] for word in new}
    return [word for word in words if word.partition("=")[0] not in keys]


def times(gain: float) -> str:
    """``1.8 times``."""
    return f"{gain:.2f} times" if gain < 10 else f"{gain:.0f} times"

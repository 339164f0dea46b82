"""Ways that take turns: one waiting process for each, every way once per repeat, and the check of their work."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from cases import Case
from prepared import prepare, words_for

HERE = Path(__file__).resolve().parent
Measured = dict[str, Any]
Run = Callable[[dict[str, Any]], Measured]


class FailedWayError(RuntimeError):
    """A way that could not train."""


class DifferentWorkError(RuntimeError):
    """Ways that cannot be compared."""


class Worker:
    """One way's process: started when first asked, then waiting for its next job."""

    def __init__(self, way: str) -> None:
        self.way = way
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, job: dict[str, Any]) -> Measured:
        """Train once; raises FailedWayError with what the process said."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), self.way],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise FailedWayError(f"its process ended with code {self._process.wait()}")
        answer: Measured = json.loads(line)
        if "error" in answer:
            print(answer["traceback"], file=sys.stderr)
            raise FailedWayError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None


class Extra:
    """A command of the user's, run once for each job, that prints a line of JSON with ``seconds`` and ``steps``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __call__(self, job: dict[str, Any]) -> Measured:
        """Run it; raises FailedWayError when it fails or its last line is none of JSON with both numbers."""
        keys = ("case", "batch", "steps", "epochs", "device", "seed", "threads")
        known = {key: str(job[key]) for key in keys} | {"data": shlex.quote(str(job["data"]))}
        command = self.command
        for key, value in known.items():
            command = command.replace("{" + key + "}", value)
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        if done.returncode:
            raise FailedWayError(f"{command}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
        try:
            answer: Measured = json.loads(lines[-1])
            return answer | {"seconds": float(answer["seconds"]), "steps": int(answer["steps"])}
        except (IndexError, ValueError, KeyError, TypeError) as error:
            raise FailedWayError(f"{command}: its last line is no JSON with seconds and steps") from error

    def close(self) -> None:
        """Nothing waits."""


@dataclass
class Place:
    """Where a table is measured, and how."""

    device: str
    threads: int
    images: Path
    text: Path | None
    scratch: Path
    quick: bool = False
    dlrun: Sequence[str] = ()


@dataclass
class Found:
    """What one case gave: runs by way, and why other ways have none."""

    runs: dict[str, list[Measured]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def job_of(case: Case, place: Place, words: Sequence[str] = ()) -> dict[str, Any]:
    """What a worker is told, but for the seed; lays the data down."""
    steps, epochs = case.length(place.device, place.quick)
    told = words_for(case, place.images, place.text)
    data = prepare(case, told, steps * case.batch, place.images, place.scratch)
    return {
        "case": case.slug, "batch": case.batch, "steps": steps * epochs, "steps_per_epoch": steps, "epochs": epochs,
        "device": place.device, "threads": place.threads, "words": told, "dlrun": [*place.dlrun, *words],
        "images": str(place.images), "data": str(data), "scratch": str(place.scratch), "count": False, "seed": 0,
    }  # fmt: skip


def take_turns(name: str, ways: Mapping[str, Run], job: dict[str, Any], repeats: int) -> Found:
    """Every way once per repeat, in turning order, after one run of each, not measured, whose updates are counted.

    A way that fails is left out from then on, and why is said.
    """
    found, left = Found({way: [] for way in ways}), dict(ways)
    for repeat in range(-1, repeats):
        names = list(left)
        turn = repeat % len(names) if names else 0
        for way in names[turn:] + names[:turn]:
            try:
                one = left[way](job | {"seed": repeat + 1, "count": repeat < 0})
            except FailedWayError as failure:
                found.absent[way] = f"failed: {str(failure).splitlines()[0]}"
                del left[way], found.runs[way]
                print(f"  {name}, {way}: {found.absent[way]}", file=sys.stderr)
                continue
            per_step = one["seconds"] / one["steps"] * 1e6
            load = os.getloadavg()[0]
            print(f"  {name}, {way}: {per_step:.0f} us/step, {one.get('metric')}, load {load:.1f}", file=sys.stderr)
            one["load"] = load
            found.runs[way].append(one)
    return found


def same_work(name: str, runs: Mapping[str, Sequence[Measured]], band: float, reference: str = "tensors") -> None:
    """Raise DifferentWorkError unless all ways took as many steps on as many parameters and came about as far.

    Args:
        runs: of each way; an extra command may leave out ``parameters``, ``metric`` and ``updates``.
        band: the share of the reference's median metric by which that of another way may differ.
        reference: the way the others are compared with; the first one where it is not there.
    """
    if not runs:
        return
    base = runs[reference] if reference in runs else next(iter(runs.values()))
    steps, parameters = base[0]["steps"], base[0].get("parameters")
    wanted = [one["metric"] for one in base if one.get("metric") is not None]
    for way, measured in runs.items():
        for one in measured:
            if one["steps"] != steps:
                raise DifferentWorkError(f"{name}: {way} took {one['steps']} steps, {reference} {steps}")
            if one.get("updates") is not None and one["updates"] != one["steps"]:
                raise DifferentWorkError(
                    f"{name}: {way} says {one['steps']} steps, but its optimizers took {one['updates']:g}"
                )
            if one.get("parameters") not in (None, parameters):
                raise DifferentWorkError(f"{name}: {way} has {one['parameters']} parameters, {reference} {parameters}")
        metrics = [one["metric"] for one in measured if one.get("metric") is not None]
        if wanted and metrics and not abs(median(metrics) - median(wanted)) <= band * abs(median(wanted)):
            raise DifferentWorkError(
                f"{name}: {way} came to {median(metrics):.4g}, {reference} to {median(wanted):.4g}: more than "
                f"{band:.0%} apart"
            )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": median(values), "low": min(values), "high": max(values)}


def ratios(runs: Mapping[str, Sequence[Measured]], upper: str, late: bool = False) -> dict[str, dict[str, float]]:
    """The time per step of ``upper`` over that of each other way, within each repeat: median and spread."""
    times = {way: [time_per_step(one, late) for one in measured[1:]] for way, measured in runs.items()}
    times = {way: [t for t in values if t is not None] for way, values in times.items()}
    mine = times.get(upper, [])
    return {
        way: spread([a / b for a, b in zip(mine, values, strict=True)])
        for way, values in times.items()
        if way != upper and values and len(values) == len(mine)
    }


def time_per_step(one: Measured, late: bool = False) -> float | None:
    """Seconds; ``late``: of the steps after the first reading of the loss alone, where they were told apart."""
    if not late:
        return float(one["seconds"] / one["steps"])
    return float(one["late_seconds"] / one["late_steps"]) if one.get("late_steps") else None

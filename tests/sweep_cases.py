"""A made-up sweep on disk for tests of what a person sees: groups, conditional keys, failures, pruned points."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, Axis, Point, Settings, Space, SweepResult
from dlrun.sweeps.results import collect

METRIC = "val/accuracy"
SPACE = Space(
    fixed=("data=digits",),
    axes=(
        Axis("model", group=True, values=("mlp", "cnn")),
        Axis("optimizer.lr", low=1e-4, high=1e-1, log=True),
        Axis("model.dropout", low=0.0, high=0.5),
        Axis("model.hidden", values=("[32]", "[64,64]", "[128,64,32]")),
        Axis("model.channels", values=("8", "16", "32")),
        Axis("activation", group=True, values=("relu", "gelu", "tanh")),
    ),
    seeds=(0, 1),
)


def trial_folder(folder: Path, number: int, seed: int) -> Path:
    """The run directory of a trial."""
    return folder / f"{number:04d}-seed{seed}"


@dataclass
class Known:
    number: int
    state: str
    point: Point
    error: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None


def write_run(folder: Path, status: str = DONE, curve: list[float] | None = None, **record: Any) -> None:
    """A run directory as the trainer leaves it; the best value is the curve's largest."""
    folder.mkdir(parents=True)
    curve = curve or []
    record = {"status": status, "steps": 100 * max(len(curve) - 1, 0), "seconds": 12.5} | record
    if status == DONE and curve:
        record.setdefault("best", {"step": 100, "metric": METRIC, "value": max(curve)})
        record.setdefault(
            "metrics", {METRIC: max(curve), "val/loss": 1 - max(curve), "test/accuracy": max(curve) - 0.01}
        )
    (folder / "run.json").write_text(json.dumps(record))
    rows = [{"step": 100 * i, "epoch": i, METRIC: value} for i, value in enumerate(curve)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def made_up_point(number: int, luck: random.Random) -> tuple[Point, float]:
    """A point of ``SPACE`` and how good it is, between 0 and 1."""
    model = luck.choice(["mlp", "cnn"])
    rate = 10 ** luck.uniform(-4, -1)
    values = {"model": model, "optimizer.lr": repr(rate), "model.dropout": f"{luck.uniform(0, 0.5):.3f}"}
    if model == "mlp":
        values["model.hidden"] = luck.choice(SPACE.axes[3].values)
    else:
        values["model.channels"] = luck.choice(SPACE.axes[4].values)
    values["activation"] = luck.choice(SPACE.axes[5].values)
    bump = math.exp(-((math.log10(rate) + 2.3) ** 2) / 1.1)
    worth = 0.35 + 0.55 * bump + (0.05 if model == "cnn" else 0.0) - 0.1 * float(values["model.dropout"])
    return Point(values, ("data=digits", *(f"{key}={value}" for key, value in values.items()))), worth


def write_sweep(folder: Path, points: int = 30, seed: int = 0, evaluations: int = 12) -> SweepResult:
    """Write all run directories of a sweep into ``folder`` and collect them."""
    luck = random.Random(seed)
    known = []
    for number in range(points):
        point, worth = made_up_point(number, luck)
        state = {5: FAILED, 11: DIVERGED, 17: FAILED}.get(number % 30, PRUNED if worth < 0.55 else DONE)
        for replicate in SPACE.seeds:
            if state == PRUNED and replicate:
                break
            path = trial_folder(folder, number, replicate)
            speed, shift = 1.5 + luck.random() * 2, luck.gauss(0, 0.008)
            curve = [0.1 + (worth - 0.1 + shift) * (1 - math.exp(-i / speed)) for i in range(evaluations)]
            curve = [value + luck.gauss(0, 0.004) for value in curve]
            if state == PRUNED:
                write_run(path, PRUNED, curve[: 3 + number % 3])
            elif state == DIVERGED:
                write_run(path, DIVERGED, curve[:4], error="DivergedError: the loss became NaN at step 312")
            elif state == FAILED and replicate == number % 2:
                why = "killed by signal 9 (SIGKILL): perhaps the system ran out of memory"
                write_run(
                    path, FAILED, curve[:2], error=why if number % 30 == 5 else "ValueError: <script>alert(1)</script>"
                )
                (path / "output.log").write_text("Traceback\n")
            else:
                write_run(path, DONE, curve, seconds=8 + luck.random() * 9)
        known.append(Known(number, state, point))
    return collect(
        folder, known, name="143005-sweep-mlp-k7f2", metric=METRIC, higher_is_better=True, space=SPACE,
        settings=Settings(sampler="tpe", points=points, pruner="asha", workers=2), planned=points, seconds=754.0,
        importances={"optimizer.lr": 0.71, "model": 0.14, "model.dropout": 0.08, "activation": 0.07},
    )  # fmt: skip

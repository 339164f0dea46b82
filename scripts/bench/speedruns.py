"""Seconds to a known quality: dlrun's experiments ``speedrun_*`` over several seeds, and whether their mean reaches it.

    .venv/bin/python scripts/bench/speedruns.py mnist --root ../shared/data --seeds 10 --cold

Each target is an ordinary experiment, run by ``dlrun.run.train`` as the command line runs it:

- training: run.json's ``timings.fit_seconds`` of the second and later runs in one process, after an untimed one of
  ``warm_up`` steps; where the target is met while the network trains, the time of the evaluation that first meets it.
- whole: the same runs from the overrides to the final record: compose, check, read the data, train, test, write.
- cold (--cold): one more whole run as a command of its own, from Enter to its end.
- of peak: the operations of one forward and backward pass as torch counts them, times the steps, over all seconds of
  training (evaluations too) and over the most that the GPU does in the run's number format by its data sheet.

A target counts as reached when the mean over the seeds meets it. ``--no-times`` leaves the seconds out: what a network
learns does not depend on how busy the machine is. A run with changed settings (``--words``) is marked and never stored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import context
from torch.utils.flop_counter import FlopCounterMode

from dlrun.build import Experiment, build_model, check
from dlrun.config import compose
from dlrun.profiling.peaks import listed
from dlrun.run import train
from dlrun.training.reporters import Silent

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        experiment: the option of the group ``experiment``.
        words: what it needs beside; {root} is the folder of the data sets.
        metric: of the run's last word; where ``during`` is true, of its evaluations.
        goal: the value to reach.
        higher: whether more is better.
        aim: seconds of training on an H200 that the project set itself.
        warm_up: steps of the untimed run.
    """

    experiment: str
    words: tuple[str, ...]
    metric: str
    goal: float
    higher: bool
    aim: str
    warm_up: int
    during: bool = False

    def meets(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.goal if self.higher else value <= self.goal

    def overrides(self, root: Path, device: str, extra: Sequence[str]) -> list[str]:
        """The words after ``dlrun train``."""
        words = [word.format(root=root) for word in self.words]
        return [f"experiment={self.experiment}", *words, f"trainer.device={device}", *extra]


TARGETS = {
    "mnist": Target("speedrun_mnist", ("data.root={root}",), "test/accuracy", 0.99, True, "0.3, then 0.15", 235),
    "fashion_mnist": Target(
        "speedrun_fashion_mnist", ("data.root={root}",), "test/accuracy", 0.94, True, "30", 300
    ),
    "shakespeare": Target(
        "speedrun_shakespeare", ("data.path={root}/tinyshakespeare/input.txt",), "val/loss", 1.47, False, "60", 100,
        during=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One run: what it reached, its steps, seconds of training to the target, of all training and of the whole call."""

    value: float
    steps: int
    training: float | None
    fit: float
    whole: float


def one(target: Target, overrides: list[str]) -> Measured:
    """Train once in this process; ``training`` is None where the target was to be met on the way and was not."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = ["dlrun", "train", *overrides]
        outcome = train(compose(overrides), root=Path(folder), command=command, reporter=Silent())
        whole = time.perf_counter() - started
        record = json.loads((outcome.path / "run.json").read_text())
        rows = [json.loads(line) for line in (outcome.path / "history.jsonl").read_text().splitlines()]
    fit = record["timings"]["fit_seconds"]
    seconds: float | None = fit
    if target.during:
        met = [row["seconds"] for row in rows if target.metric in row and target.meets(row[target.metric])]
        seconds = met[0] if met else None
    return Measured(outcome.metrics[target.metric], record["steps"], seconds, fit, whole)


def cold_seconds(overrides: list[str]) -> float:
    """A whole run as a command of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "dlrun", "train", *overrides, "--outputs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def step_operations(experiment: Experiment) -> int:
    """Floating-point operations of one step's matrix products and convolutions, forward and backward.

    Counted on the meta device for two examples: they grow with the batch in proportion.
    """
    with torch.device("meta"):
        model = build_model(experiment.node, experiment.facts, experiment.task, experiment.trusted)
    inputs, targets = (part.to("meta") for part in experiment.task.example())
    with FlopCounterMode(display=False) as counter:
        loss, _ = experiment.task.loss(model.to("meta").train(), (inputs, targets))
        loss.backward()
    return counter.get_total_flops() * experiment.batch_size // len(inputs)


def peak(device: str, dtype: str) -> float | None:
    """The most operations per second of a GPU in a number format, where its data sheet is known."""
    known = listed(torch.cuda.get_device_name(), dtype) if device.startswith("cuda") else None
    return None if known is None else known.flops


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    """One target over all seeds, as a row of the table."""
    overrides = target.overrides(arguments.root, arguments.device, arguments.words)
    experiment = check(compose(overrides))
    if not arguments.no_times:
        one(target, [*overrides, f"trainer.steps={target.warm_up}", "trainer.evaluate_steps=1000000"])
    runs = []
    for seed in range(arguments.seeds):
        runs.append(one(target, [*overrides, f"trainer.seed={seed}"]))
        print(f"  {target.experiment}, seed {seed}: {target.metric} {runs[-1].value:.4f}", file=sys.stderr, flush=True)
    values = [run.value for run in runs]
    mean = statistics.fmean(values)
    row: dict[str, Any] = {
        "experiment": target.experiment,
        "metric": target.metric,
        "goal": target.goal,
        "mean": mean,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "reached": target.meets(mean),
        "words": arguments.words,
        "aim": target.aim,
        "operations_per_step": step_operations(experiment),
        "runs": [asdict(run) for run in runs],
    }
    if arguments.no_times:
        row["runs"] = [{"value": run.value, "steps": run.steps} for run in runs]
    else:
        row |= times(runs, row["operations_per_step"], peak(arguments.device, experiment.precision.dtype))
    if arguments.cold:
        row["cold"] = cold_seconds(overrides)
    return row


def times(runs: Sequence[Measured], operations: int, most: float | None) -> dict[str, Any]:
    """The seconds of a row. A time to a target met on the way is known only where every seed met it."""
    found: dict[str, Any] = {"whole": spread([run.whole for run in runs])}
    training = [run.training for run in runs if run.training is not None]
    if len(training) == len(runs):
        found["training"] = spread(training)
    if most is not None:
        found["share_of_peak"] = statistics.median(run.steps * operations / run.fit / most for run in runs)
    return found


def table(machines: dict[str, Any]) -> str:
    """The stored rows of every machine as markdown."""
    lines = [
        "# Speedruns",
        "",
        "What is run and how it is timed: `scripts/bench/speedruns.py`. Times: median (lowest-highest).",
    ]
    for name, machine in machines.items():
        lines += ["", f"## {name}", "", ", ".join(f"{key} {value}" for key, value in machine["context"].items()), ""]
        lines += [
            "| experiment | goal | mean | seeds | steps | training, s | whole, s | cold, s | of peak | aim (H200), s |"
        ]
        lines += ["|---" * 10 + "|"]
        lines += [_line(row) for row in machine["rows"].values()]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
    cells = [
        row["experiment"] + (f" with {' '.join(row['words'])}" if row["words"] else ""),
        f"{row['metric']} {row['goal']}",
        f"{row['mean']:.4f}{deviation}{'' if row['reached'] else ', not reached'}",
        str(len(row["runs"])),
        f"{row['runs'][0]['steps']:,}",
        *(_seconds(row.get(key)) for key in ("training", "whole")),
        f"{row['cold']:.1f}" if "cold" in row else "",
        f"{row['share_of_peak']:.1%}" if "share_of_peak" in row else "",
        row["aim"],
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.3g} ({value['low']:.3g}-{value['high']:.3g})"


def store(folder: Path, where: dict[str, Any], rows: dict[str, Any]) -> str:
    """Put the rows beside those of other machines and targets, and write the table."""
    path = folder / "speedruns.json"
    machines = json.loads(path.read_text()) if path.exists() else {}
    name = where["hardware"]
    kept = machines.get(name, {}).get("rows", {})
    machines[name] = {"context": where, "rows": kept | rows}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(machines, indent=1) + "\n")
    text = table(machines)
    (folder / "speedruns.md").write_text(text)
    return text


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; none: all")
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cold", action="store_true", help="one more run as a command of its own")
    parser.add_argument("--no-times", action="store_true", help="only what was reached: for a machine that is busy")
    parser.add_argument("--words", nargs="*", default=[], help="further overrides; the rows are shown and not stored")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]}: choose from {', '.join(TARGETS)}")
    arguments.root = arguments.root.resolve()
    return arguments


def main() -> None:
    arguments = parsed()
    names = arguments.targets or list(TARGETS)
    where = context(torch.device(arguments.device), torch.get_num_threads(), arguments.seeds)
    rows = {}
    for name in names:
        rows[name] = measure(TARGETS[name], arguments)
        if not arguments.words:  # at once: what a later target costs must not be the end of an earlier one's row
            store(arguments.results, where, rows)
    print(table({where["hardware"]: {"context": where, "rows": rows}}))


if __name__ == "__main__":
    main()

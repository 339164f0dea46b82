"""Model-steps per second of trials in packs of 1, 4, 16 and 64, beside the same trials trained otherwise.

    .venv/bin/python scripts/bench/packing.py --root ../shared/data

Five cases: a multilayer perceptron 784-H-10 with H = 16 and 128 (batch 32, Adam, each trial its own rate), all trials
in one order of the data (one seed) or each in its own; LeNet-5 (batch 128, momentum); on a GPU ResNet-20 too. A
model-step is one training step of one trial. Beside each pack, eager and compiled:

- serial: the trials one after another, eager, in this process, as ``dlrun train`` steps;
- processes: two worker processes of one thread each (CPU);
- graph: one after another, each step a CUDA graph (GPU).

Ways are interleaved: every repeat runs each once, in turning order, for so many seconds. A ratio is the median over
repeats of the ratio within one repeat. Fashion-MNIST where --root has it, else random numbers of the same shape; no
evaluation. The results of this machine replace its own of before in packing.json; packing.md shows those of all
machines beside the targets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import context
from packed_ways import Graph, Pack, Place, Processes, Serial, Words

RESULTS = Path(__file__).resolve().parent / "results"
FASHION = ("data=fashion_mnist", "data.download=false", "tracking=minimal")
ADAM = ("optimizer=adam", "trainer.batch_size=32", "model=mlp")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        own: whether every trial has its own order of the data.
        targets: by kind of device and lanes, how many times the serial eager loop a pack is to reach.
    """

    name: str
    words: Words
    rate: float
    own: bool
    targets: dict[tuple[str, int], float]
    gpu_only: bool = False
    lanes: tuple[int, ...] = (1, 4, 16, 64)


SMALL, LARGE = (*FASHION, *ADAM, "model.hidden=[16]"), (*FASHION, *ADAM, "model.hidden=[128]")
LENET5 = (*FASHION, "model=lenet5", "activation=tanh", "optimizer=momentum", "trainer.batch_size=128")
RESNET = (
    "data=cifar10", "data.download=false", "tracking=minimal", "model=resnet", "optimizer=momentum",
    "trainer.batch_size=128",
)  # fmt: skip
CASES = (
    Case("MLP 784-16-10, one order", SMALL, 1e-3, own=False, targets={("cpu", 16): 10}),
    Case("MLP 784-16-10, an order each", SMALL, 1e-3, own=True, targets={("cpu", 16): 10}),
    Case("MLP 784-128-10, one order", LARGE, 1e-3, own=False, targets={("cpu", 16): 1.5, ("cuda", 64): 40}),
    Case("MLP 784-128-10, an order each", LARGE, 1e-3, own=True, targets={("cpu", 16): 1.5, ("cuda", 64): 40}),
    Case("LeNet-5", LENET5, 0.05, own=True, targets={("cuda", 64): 15}),
    Case("ResNet-20", RESNET, 0.05, own=True, targets={("cuda", 16): 4}, gpu_only=True, lanes=(1, 4, 16)),
)
Ways = dict[str, Callable[[], Any]]


def ways_of(case: Case, place: Place, lanes: int) -> Ways:
    """How to make each way that this machine has."""
    serial = (case.words, place, case.rate)
    ways: Ways = {"serial": lambda: Serial(*serial)}
    if place.device == "cuda":
        ways["graph"] = lambda: Graph(*serial)
    else:
        ways["processes"] = lambda: Processes(*serial)
    ways["eager"] = lambda: Pack(*serial, lanes, case.own, compiled=False)
    ways["compiled"] = lambda: Pack(*serial, lanes, case.own, compiled=True)
    return ways


def measure(ways: Ways, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Model-steps per second of each way, once per repeat, in turning order, after one that does not count."""
    made = {name: make() for name, make in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            passed, steps = made[name].go(seconds if repeat >= 0 else seconds / 4)
            if repeat >= 0:
                found[name].append(steps / passed)
    for way in made.values():
        way.close()
    return found


def row_of(case: Case, place: Place, lanes: int, threads: int, found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and spreads; what the better pack is beside the serial loop, and beside the best that is no pack."""
    packs = [name for name in ("eager", "compiled") if name in found]
    best = max(packs, key=lambda name: median(found[name]))
    others = [values for name, values in found.items() if name not in packs]

    def ratio(other: Sequence[float]) -> dict[str, float]:
        return spread([a / b for a, b in zip(found[best], other, strict=True)])

    best_other = max(others, key=median)
    return {
        "case": case.name, "lanes": lanes, "threads": threads,
        "per_second": {name: spread(values) for name, values in found.items()},
        "faster": best, "over_serial": ratio(found["serial"]), "over_best_other": ratio(best_other),
        "target": case.targets.get((place.device, lanes)), "runs": found,
    }  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}


def rows(arguments: argparse.Namespace, place_of: Callable[[Case], Place]) -> Iterator[dict[str, Any]]:
    """One for each case, number of lanes and number of threads."""
    for case in CASES:
        if arguments.cases not in case.name or (case.gpu_only and arguments.device != "cuda"):
            continue
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for lanes in (n for n in case.lanes if n in arguments.lanes):
                place = place_of(case)
                ways = ways_of(case, place, lanes)
                chosen = {name: make for name, make in ways.items() if name in arguments.ways}
                row = row_of(case, place, lanes, threads, measure(chosen, arguments.repeats, arguments.seconds))
                ratio = row["over_serial"]["median"]
                print(f"{case.name}, {lanes} lanes, {threads} threads: {ratio:.2f} times", file=sys.stderr)
                yield row


COLUMNS = (
    "case", "lanes", "threads", "serial", "processes", "graph", "eager pack", "compiled pack", "times serial", "target",
    "times the best other",
)  # fmt: skip
HEADER = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]


def table(machines: dict[str, Any]) -> str:
    """The markdown: one section for each machine, and the cases that wait for a GPU where there was none."""
    lines = ["# Packed trials: model-steps per second", "", "packing.py says what is run; median (lowest-highest).", ""]
    for where, found in machines.items():
        said = ", ".join(f"{key} {value}" for key, value in found["context"].items())
        lines += [f"## {where}", "", said, "", *HEADER]
        lines += [_line(row) for row in found["rows"]]
        lines += [""]
    if not any(where.startswith("cuda") for where in machines):
        lines += ["## cuda (not measured: no GPU was there)", "", *HEADER]
        wanted = [(case.name, n, aim) for case in CASES for (kind, n), aim in case.targets.items() if kind == "cuda"]
        lines += [f"| {name} | {lanes} | | | | | | | | {aim} | |" for name, lanes, aim in wanted]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: dict[str, Any]) -> str:
    def cell(value: dict[str, float] | None, digits: int = 0) -> str:
        if not value:
            return ""
        return f"{value['median']:,.{digits}f} ({value['low']:,.{digits}f}-{value['high']:,.{digits}f})"

    names = ("serial", "processes", "graph", "eager", "compiled")
    speeds = " | ".join(cell(row["per_second"].get(name)) for name in names)
    target = "" if row["target"] is None else f"{row['target']:g}"
    ratios = f"{cell(row['over_serial'], 2)} | {target} | {cell(row['over_best_other'], 2)}"
    return f"| {row['case']} | {row['lanes']} | {row['threads']} | {speeds} | {ratios} |"


def write(folder: Path, where: str, found: dict[str, Any]) -> str:
    """Put this machine's results beside those of others; the table."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "packing.json"
    machines = json.loads(path.read_text()) if path.exists() else {}
    machines[where] = found
    path.write_text(json.dumps(machines, indent=1) + "\n")
    text = table(machines)
    (folder / "packing.md").write_text(text)
    return text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder that holds FashionMNIST/raw")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one way in one repeat")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--ways", nargs="+", default=["serial", "processes", "graph", "eager", "compiled"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", default="", help="run only the cases whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="a trial of this program: 600 random examples, no figures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.threads, arguments.lanes = 1, 0.02, [1], [1, 4]
        arguments.ways, arguments.root = ["serial", "eager"], Path(os.devnull)
    return arguments


def main() -> None:
    arguments = _arguments()
    names = {"data=fashion_mnist": "FashionMNIST/raw", "data=cifar10": "cifar-10-batches-py"}

    def place_of(case: Case) -> Place:
        there = (arguments.root / names[case.words[0]]).is_dir()
        return Place(arguments.root.resolve() if there else None, 600 if arguments.quick else 20_000, arguments.device)

    where = context(torch.device(arguments.device), arguments.threads[0], arguments.repeats)
    data = "random numbers" if place_of(CASES[0]).root is None else "Fashion-MNIST"
    where |= {"threads": arguments.threads, "seconds": arguments.seconds, "data": data}
    found = {"context": where, "rows": list(rows(arguments, place_of))}
    print(write(arguments.results, f"{arguments.device}: {where['hardware']}", found))


if __name__ == "__main__":
    main()

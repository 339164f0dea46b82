"""What dlrun costs beside loops written by hand, in microseconds per training step, on Fashion-MNIST.

    .venv/bin/python scripts/bench/overhead.py --root ../shared/data

Three ways train the same network (dlrun's own classes, so that only the loops differ) for one epoch on the same 54,000
examples, with the 6,000 held out evaluated before the first step and after the last:

- tensors: a loop over normalised tensors in memory, shuffled, indexed batch by batch, the same fused optimizer as
  dlrun's; the loss is read every 50 steps. The strictest comparison.
- loader: the same loop as most people write it, torchvision's dataset with ToTensor in a DataLoader, plain optimizer.
- dlrun: ``dlrun.run.train`` in this process as the command line calls it, with its history, TensorBoard and
  checkpoints; the time is run.json's ``timings.fit_seconds``, from before the first evaluation to the end of training.

Runs are interleaved: every repeat runs each way once, in turning order. A ratio is the median over repeats of the
ratio within one repeat, so a machine that gets slower for a minute slows both sides of it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from by_hand import CASES, Case, Data, Measured, loader, tensors

RESULTS = Path(__file__).resolve().parent / "results"


def dlrun(case: Case, root: Path, seed: int, threads: int, outputs: Path) -> Measured:
    from dlrun.config import compose
    from dlrun.console import Plain
    from dlrun.run import train

    overrides = [
        "data=fashion_mnist",
        f"data.root={root}",
        *case.overrides,
        f"trainer.batch_size={case.batch_size}",
        "trainer.epochs=1",
        f"trainer.seed={seed}",
        f"trainer.threads={threads}",
    ]
    folder = Path(tempfile.mkdtemp(dir=outputs))
    start = time.perf_counter()
    config, command = compose(overrides), ["dlrun", "train", *overrides]
    train(config, root=folder, command=command, reporter=Plain(io.StringIO()), trusted=())
    whole = time.perf_counter() - start
    (path,) = folder.rglob("run.json")
    record = json.loads(path.read_text())
    shutil.rmtree(folder)
    timings = record["timings"]
    accuracy = record["metrics"]["val/accuracy"]
    return Measured(timings["fit_seconds"], timings["steps"], accuracy, record["parameters"], whole)


def measure(case: Case, ways: dict[str, Callable[[int], Measured]], repeats: int) -> dict[str, list[Measured]]:
    """Run every way once per repeat, in turning order, after one unmeasured run of each."""
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    names = list(ways)
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for way in names[turn:] + names[:turn]:
            one = ways[way](repeat + 1)
            print(f"  {case.name}, {way}: {one.microseconds:.0f} us/step, accuracy {one.accuracy:.3f}", file=sys.stderr)
            if repeat >= 0:
                found[way].append(one)
    works = {(one.steps, one.parameters) for runs in found.values() for one in runs}
    if len(works) != 1:
        raise SystemExit(f"{case.name}: the ways did not do the same work: (steps, parameters) {sorted(works)}")
    return found


def summary(case: Case, found: dict[str, list[Measured]]) -> dict[str, Any]:
    """Medians and spreads of one case, ratios within each repeat."""
    times = {way: [one.microseconds for one in runs] for way, runs in found.items()}
    row: dict[str, Any] = {
        "case": case.name,
        "steps": next(iter(found.values()))[0].steps,
        "microseconds": {},
        "ratios": {},
        "whole_seconds": {way: median(one.whole_seconds for one in runs) for way, runs in found.items()},
    }
    for way, values in times.items():
        row["microseconds"][way] = {"median": median(values), "low": min(values), "high": max(values)}
    for upper, lower in (("dlrun", "tensors"), ("loader", "tensors"), ("loader", "dlrun")):
        if upper in times and lower in times:
            values = [a / b for a, b in zip(times[upper], times[lower], strict=True)]
            row["ratios"][f"{upper}/{lower}"] = {"median": median(values), "low": min(values), "high": max(values)}
    row["runs"] = {way: [asdict(one) for one in runs] for way, runs in found.items()}
    return row


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def context(device: torch.device, threads: int, repeats: int) -> dict[str, Any]:
    """Where, when and with what this was measured."""
    from importlib.metadata import version

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "repeats": repeats,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "dlrun")},
    }


def table(where: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The markdown that goes into the record and on the screen."""

    def cell(value: dict[str, float] | None, digits: int) -> str:
        return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})" if value else "-"

    ways = [w for w in ("tensors", "loader", "dlrun") if w in rows[0]["microseconds"]]
    ratios = list(rows[0]["ratios"])
    lines = [
        "# Overhead per training step, Fashion-MNIST, one epoch",
        "",
        ", ".join(f"{key} {value}" for key, value in where.items()),
        "",
        f"Microseconds per step, median (lowest-highest) of {where['repeats']}; overhead.py says what is run.",
        "",
        f"| case | {' | '.join(ways)} | {' | '.join(ratios)} | whole call, s: {', '.join(ways)} |",
        "|---" * (2 + len(ways) + len(ratios)) + "|",
    ]
    for row in rows:
        cells = [cell(row["microseconds"][w], 0) for w in ways] + [cell(row["ratios"][r], 3) for r in ratios]
        whole = ", ".join(f"{row['whole_seconds'][w]:.2f}" for w in ways)
        lines.append(f"| {row['case']} | {' | '.join(cells)} | {whole} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder that holds FashionMNIST/raw")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more than one is noise on a busy machine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", default="", help="run only the cases whose name has this in it")
    parser.add_argument("--ways", default="tensors,loader,dlrun", help="which ways to run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, root = torch.device(arguments.device), arguments.root.resolve()
    where = context(device, arguments.threads, arguments.repeats)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = Data(root, scratch / "torchvision", device)
        rows = []
        for case in (c for c in CASES if arguments.cases in c.name):
            ways: dict[str, Callable[[int], Measured]] = {
                "tensors": lambda seed, case=case: tensors(case, data, seed),
                "loader": lambda seed, case=case: loader(case, data, seed),
                "dlrun": lambda seed, case=case: dlrun(case, root, seed, arguments.threads, scratch),
            }
            chosen = {way: ways[way] for way in arguments.ways.split(",")}
            rows.append(summary(case, measure(case, chosen, arguments.repeats)))
    text = table(where, rows)
    print(text)
    slug = re.sub(r"[^a-z0-9]+", "-", where["hardware"].lower()).strip("-")
    name = f"overhead-{slug}-{arguments.threads}-threads"
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps({**where, "cases": rows}, indent=1) + "\n")
    (arguments.results / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()

"""From Enter to the first training step, and the commands that only look: whole processes, taking turns."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cases import case_of
from machine import context, cores
from prepared import unpacked
from running import spread
from tables import cell, page, rows_of, write
from ways import PACKAGES, PEERS, WAYS

HERE = Path(__file__).resolve().parent
SAID = (
    "Seconds from starting the process, median (lowest-highest), and beyond `import torch` within each repeat. To the "
    "first step: MLP 784-128-10, batch 32, Fashion-MNIST from its unpacked files; the process says when the step was "
    "done (first_step.py) and ends. dlrun is `dlrun train` with its defaults, so it has made its run directory and "
    "evaluated the untrained network by then; the others have not. The rest: whole processes.",
)
LOOKING = {
    "dlrun --help": ["--help"],
    "dlrun list": ["list"],
    "dlrun train --cfg job": ["train", "--cfg", "job"],
    "dlrun show": ["show"],
}


def measure(options: argparse.Namespace) -> Path:
    """Measure, write; the table's path."""
    device = torch.device(options.device)
    where = context(device, options.threads or cores(), options.repeats, PACKAGES)
    absent = {}
    with tempfile.TemporaryDirectory() as folder:
        images, _, where["data"] = unpacked(options.root.resolve(), Path(folder))
        timed = looking(Path(folder))
        case = case_of("mlp32")
        for way in options.ways or ["dlrun", "tensors", "loader", *([] if options.quick else PEERS)]:
            absent[way] = WAYS[way].missing(case, device.type)
            if not absent[way]:
                timed[f"first step: {way}"] = first_step(way, images, Path(folder), device.type)
        found = take_turns(timed, options.repeats, first=0 if options.quick else -1)
    base = found["import torch"]
    rows = []
    for name, values in found.items():
        beyond = median(a - b for a, b in zip(values, base, strict=True))
        rows.append([name, cell(spread(values), 2), "" if name == "import torch" else f"{beyond:+.2f}"])
    said = [f"- {way}: {why}" for way, why in absent.items() if why]
    text = page("Cold start", where, SAID, rows_of(["what", "seconds", "beyond import torch"], rows), said)
    return write(options.results, "cold", where, {"seconds": found, "absent": absent}, text)


def looking(folder: Path) -> dict[str, Callable[[], float]]:
    """Whole processes by name."""
    program = Path(sys.executable).with_name("dlrun")
    dlrun = [str(program)] if program.exists() else [sys.executable, "-m", "dlrun"]
    commands = {"import torch": [sys.executable, "-c", "import torch"]}
    commands |= {name: [*dlrun, *words] for name, words in LOOKING.items()}
    return {name: lambda command=command: _whole(command, folder) for name, command in commands.items()}  # type: ignore[misc]


def _whole(command: list[str], folder: Path) -> float:
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    passed = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return passed


def first_step(way: str, images: Path, folder: Path, device: str) -> Callable[[], float]:
    """Seconds from the start of a process to the end of its first training step."""
    said = folder / "first-step"
    command = [sys.executable, str(HERE / "first_step.py"), way, str(images), str(folder), device]
    environment = os.environ | {"BENCH_FIRST_STEP": str(said)}

    def run() -> float:
        said.unlink(missing_ok=True)
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if not said.exists():
            raise SystemExit(f"{way}: no first step (exit code {done.returncode})\n{done.stderr}")
        return float(said.read_text()) - started  # both on the machine's one monotonic clock

    return run


def take_turns(timed: dict[str, Callable[[], float]], repeats: int, first: int = -1) -> dict[str, list[float]]:
    """Each once per repeat, in turning order; repeats below 0 fill the file cache and do not count."""
    found: dict[str, list[Any]] = {name: [] for name in timed}
    names = list(timed)
    for repeat in range(first, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = timed[name]()
            print(f"  {name}: {seconds:.2f} s", file=sys.stderr)
            if repeat >= 0:
                found[name].append(seconds)
    return found

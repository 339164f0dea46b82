"""What watching a run costs: tracking on, minimal and off; and where the time and the waiting are, counted."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import context, cores
from prepared import unpacked
from running import Place, Worker, job_of, same_work, spread, take_turns
from steps import chosen
from tables import cell, page, rows_of, write

VARIANTS = {
    "default": (),
    "minimal": ("tracking=minimal",),
    "off": ("tracking=minimal", "tracking.every=1000000000", "trainer.checkpoint_every=1000000000"),
}
SAID = (
    "Training with the default settings (history, TensorBoard, progress, checkpoints), with tracking=minimal (no "
    "TensorBoard), and with no row and no checkpoint before the end. The time is run.json's fit_seconds, with an "
    "evaluation before the first step and one after the last; ratios are of runs within a repeat.",
)
SHARES = (
    "Seconds of each part of one default run and their share of fit_seconds, by a clock around each call; what comes "
    "before the first evaluation and after the last (the graph, the last checkpoint) is in no share. The progress is "
    "that of the plain reporter.",
)
WAITS = (
    "Readings of the device - each waits for all work given to it before - while training (not while evaluating), seen "
    "by a TorchDispatchMode and around Tensor.tolist, by the function of dlrun that asked.",
)


def measure(options: argparse.Namespace) -> Path:
    """Measure, write; the table's path."""
    device = torch.device(options.device)
    where = context(device, options.threads or cores(), options.repeats)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        images, text, where["data"] = unpacked(options.root.resolve(), Path(folder))
        place = Place(device.type, options.threads, images, text, Path(folder), options.quick, options.dlrun)
        watched, counting = Worker("dlrun"), Worker("counted")
        try:
            for case in chosen(options.cases or ["mlp32", "lenet5"]):
                job = job_of(case, place)
                ways = {
                    name: lambda told, name=name: watched(told | {"dlrun": [*told["dlrun"], *VARIANTS[name]]})
                    for name in VARIANTS
                }
                runs = take_turns(case.slug, ways, job, options.repeats).runs  # type: ignore[arg-type]
                same_work(case.slug, runs, float("inf") if options.quick else case.apart(place.device), reference="off")
                counted = {what: counting(job | {"counted": what})["details"] for what in ("seconds", "waits")}
                found[case.name] = {"runs": runs, "counted": counted, "steps": job["steps"]}
        finally:
            watched.close()
            counting.close()
    parts = [part for name, one in found.items() for part in _parts(name, one)]
    return write(options.results, "observability", where, found, page("Observability", where, SAID, *parts))


def _parts(name: str, found: dict[str, Any]) -> list[list[str]]:
    """The tables of one case."""
    times = {way: [one["details"]["fit_seconds"] for one in runs[1:]] for way, runs in found["runs"].items()}
    ratio = {way: spread([a / b for a, b in zip(times[way], times["off"], strict=True)]) for way in times}
    rows = [[way, cell(spread(values), 3), cell(ratio[way], 3)] for way, values in times.items()]
    seconds, waits = found["counted"]["seconds"], found["counted"]["waits"]
    whole = seconds.pop("fit_seconds")
    waits.pop("fit_seconds")
    shares = [[part, f"{taken:.4f}", f"{taken / whole:.2%}"] for part, taken in seconds.items()]
    shares.append(["all of them", f"{sum(seconds.values()):.4f}", f"{sum(seconds.values()) / whole:.2%}"])
    steps = found["steps"]
    asked = [[place, str(count), f"{count / steps:.4f}"] for place, count in waits.items()]
    asked.append(["all of them", str(sum(waits.values())), f"{sum(waits.values()) / steps:.4f}"])
    return [
        [f"## {name}, {steps} steps"],
        rows_of(["tracking", "fit_seconds", "over off"], rows),
        list(SHARES),
        rows_of(["part", "seconds", "share"], shares),
        list(WAITS),
        rows_of(["function", "readings", "per step"], asked),
    ]

"""Time per training step: every case in every way that is there, taking turns."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from cases import CASES, Case
from machine import context, cores
from prepared import unpacked
from running import (
    DifferentWorkError,
    Extra,
    Found,
    Place,
    Run,
    Worker,
    job_of,
    ratios,
    same_work,
    spread,
    take_turns,
    time_per_step,
)
from tables import cell, page, rows_of, write
from ways import PACKAGES, WAYS

SAID = (
    "Microseconds per training step, median (lowest-highest) over the repeats; scripts/bench/ways/ says what each way "
    "is. Each way trains dlrun's own network with the same data, optimizer, batch and number of steps, in a process of "
    "its own; the ways take turns within each repeat. Evaluations, setting up and the last checkpoint are in no time; "
    "of dlrun logging, history, TensorBoard, progress and the checkpoints on the way are.",
)
RATIOS = (
    "Time of dlrun over that of the others, within each repeat: below 1 dlrun is faster.",
)  # fmt: skip


def measure(options: argparse.Namespace) -> Path:
    """Measure, check, write; the table's path."""
    device, ways = torch.device(options.device), ways_of(options)
    where = context(device, options.threads or cores(), options.repeats, PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        images, text, words = unpacked(options.root.resolve(), Path(folder))
        where["data"] = words
        place = Place(device.type, options.threads, images, text, Path(folder), options.quick, options.dlrun)
        extras: dict[str, Any] = {name: Extra(command) for name, command in options.extra.items()}
        workers = {way: Worker(way) for way in ways} | extras
        try:
            rows = [row_of(case, workers, place, options) for case in chosen(options.cases)]
        finally:
            for worker in workers.values():
                worker.close()
    where["load_after"] = round(os.getloadavg()[0], 2)
    path = write(options.results, "steps", where, rows, text_of(where, rows, [*ways, *extras]))
    if any("different" in row for row in rows):
        raise SystemExit(f"written: {path}; where the ways did not do the same work there are no ratios")
    return path


def chosen(words: list[str]) -> list[Case]:
    """The cases of these names; all of them without."""
    found = [case for case in CASES if not words or case.slug in words]
    unknown = set(words) - {case.slug for case in found}
    if unknown:
        raise SystemExit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(c.slug for c in CASES)}")
    return found


def row_of(case: Case, workers: dict[str, Run], place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """One case: its runs, medians and ratios, and on a GPU its floors."""
    job = job_of(case, place)
    absent = {way: WAYS[way].missing(case, place.device) if way in WAYS else "" for way in workers}
    here = {way: run for way, run in workers.items() if not absent[way]}
    found = take_turns(case.slug, here, job, options.repeats)
    found.absent |= {way: why for way, why in absent.items() if why}
    row = summary(case, place.device, job, found)
    try:
        # After four steps networks have come nowhere: then only steps and parameters are compared.
        same_work(case.slug, found.runs, float("inf") if place.quick else case.apart(place.device))
    except DifferentWorkError as error:
        print(f"  {error}", file=sys.stderr)
        row |= {"different": str(error), "ratios": {}, "late_ratios": {}}
    if place.device == "cuda":
        from floors import floors

        row["floors"] = floors(job, row["microseconds"])
    return row


def summary(case: Case, device: str, job: dict[str, Any], found: Found) -> dict[str, Any]:
    """Medians and spreads of one case; the first run of each way does not count."""
    times = {way: [time_per_step(one) for one in runs[1:]] for way, runs in found.runs.items()}
    return {
        "case": case.slug,
        "name": case.name,
        "steps": job["steps"],
        "metric": case.kind.metric,
        "target": case.target[device == "cuda"],
        "microseconds": {way: spread([t * 1e6 for t in values if t]) for way, values in times.items()},
        "ratios": ratios(found.runs, "dlrun"),
        "late_ratios": ratios(found.runs, "dlrun", late=True),
        "metrics": {
            way: spread([one["metric"] for one in runs[1:]]) for way, runs in found.runs.items() if "metric" in runs[0]
        },
        "whole_seconds": {
            way: spread([one["whole_seconds"] for one in runs[1:]])
            for way, runs in found.runs.items()
            if "whole_seconds" in runs[0]
        },
        "absent": found.absent,
        "runs": found.runs,
    }


def text_of(where: dict[str, Any], rows: list[dict[str, Any]], ways: list[str]) -> str:
    """The markdown."""
    shown = [way for way in ways if any(way in row["microseconds"] for row in rows)]
    times = [
        [row["name"], str(row["steps"]), *(cell(row["microseconds"].get(way)) for way in shown)] for row in rows
    ]  # fmt: skip
    others = [way for way in shown if way != "dlrun"]
    compared = [
        [row["name"], *(cell(row["ratios"].get(way), 2) for way in others), f"{row['target']:g}"] for row in rows
    ]
    compared.append(["geometric mean", *(_mean(rows, "ratios", way) for way in others), ""])
    parts: list[list[str]] = [
        rows_of(["case", "steps", *shown], times),
        list(RATIOS),
        rows_of(["case", *(f"dlrun / {way}" for way in others), "target over tensors"], compared),
    ]
    late = [way for way in others if any(way in row["late_ratios"] for row in rows)]
    if late:
        parts += [
            ["The same over the steps after the first reading of the loss: no warming up, no capturing of graphs."],
            rows_of(
                ["case", *(f"dlrun / {way}" for way in late)],
                [[row["name"], *(cell(row["late_ratios"].get(way), 2) for way in late)] for row in rows]
                + [["geometric mean", *(_mean(rows, "late_ratios", way) for way in late)]],
            ),
        ]
    parts += [
        ["How far the training came (the same work is checked: steps, parameters, optimizer steps, and this)."],
        rows_of(
            ["case", "metric", *shown],
            [[row["name"], row["metric"], *(cell(row["metrics"].get(way), 3) for way in shown)] for row in rows],
        ),
    ]
    if any("floors" in row for row in rows):
        from floors import table

        parts += table(rows)
    why = sorted({f"{way}: {reason}" for row in rows for way, reason in row["absent"].items()})
    why += [f"not the same work, so no ratios: {row['different']}" for row in rows if "different" in row]
    parts += [[f"- {line}" for line in why]] if why else []
    return page("Time per training step", where, SAID, *parts)


def _mean(rows: list[dict[str, Any]], key: str, way: str) -> str:
    found = [row[key][way]["median"] for row in rows if way in row[key]]
    return f"{geometric_mean(found):.2f}" if found else "-"


def ways_of(options: argparse.Namespace) -> list[str]:
    """The ways asked for; a quick trial has the two that need nothing."""
    usual = ["tensors", "dlrun"] if options.quick else list(WAYS)
    found = options.ways or usual
    unknown = [way for way in found if way not in WAYS]
    if unknown:
        sys.exit(f"no way {', '.join(unknown)}; there are {', '.join(WAYS)}")
    return found

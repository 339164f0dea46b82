"""Peak memory of each way: resident set of a fresh process, and what torch allocated on a GPU."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import context, cores
from prepared import unpacked
from running import FailedWayError, Place, Worker, job_of
from steps import chosen
from tables import page, rows_of, write
from ways import PACKAGES, WAYS

SAID = (
    "Mebibytes: the largest resident set of a fresh process that imports, loads and trains one case, and in brackets "
    "the most that torch allocated on the GPU. The loop over tensors holds the examples of the case alone, while dlrun "
    "and the loaders read the whole data set.",
)
USUAL = ("tensors", "loader", "graph", "dlrun")


def measure(options: argparse.Namespace) -> Path:
    """Measure, write; the table's path."""
    device = torch.device(options.device)
    where = context(device, options.threads or cores(), options.repeats, PACKAGES)
    ways = options.ways or list(USUAL)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images, text, where["data"] = unpacked(options.root.resolve(), Path(folder))
        place = Place(device.type, options.threads, images, text, Path(folder), options.quick, options.dlrun)
        for case in chosen(options.cases):
            job = job_of(case, place)
            here = [way for way in ways if not WAYS[way].missing(case, device.type)]
            rows.append({"case": case.slug, "name": case.name} | {way: peak(way, job) for way in here})
    head = ["case", *ways]
    table = rows_of(head, [[row["name"], *(_cell(row.get(way)) for way in ways)] for row in rows])
    return write(options.results, "memory", where, rows, page("Peak memory", where, SAID, table))


def peak(way: str, job: dict[str, Any]) -> dict[str, Any]:
    """Peaks of a fresh process."""
    worker = Worker(way)
    try:
        one = worker(job)
        return {"rss": one["peak_rss"], "cuda": one["peak_cuda"]}
    except FailedWayError as failure:
        return {"failed": str(failure)}
    finally:
        worker.close()


def _cell(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    if "failed" in found:
        return "failed"
    on_device = f" ({found['cuda'] / 2**20:,.0f})" if found["cuda"] else ""
    return f"{found['rss'] / 2**20:,.0f}{on_device}"

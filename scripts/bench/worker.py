"""One way in a process of its own: reads a job a line, trains, answers a line.

Whatever the package prints goes to the null device; a progress bar still draws itself there.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


def private_streams() -> tuple[TextIO, TextIO]:
    """The pipe to the parent in both directions; what prints from now on, prints to nobody."""
    asked, answered = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nobody = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nobody, stream)
    return asked, answered


@contextmanager
def updates_counted(wanted: bool) -> Iterator[list[int]]:
    """How often any torch optimizer took a step, seen from outside of the way: a list of one number."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    found = [0]
    if not wanted:
        yield found
        return

    def count(*ignored: Any) -> None:
        found[0] += 1

    handle = register_optimizer_step_post_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def perform(way: str, job: dict[str, Any]) -> dict[str, Any]:
    """Train once; what was measured, and what shows that the same work was done."""
    import torch
    from ways import ONLY_COUNTED, WAYS
    from work import Clock, Work

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    os.chdir(job["scratch"])
    work, train = Work(job), (WAYS | ONLY_COUNTED)[way].train()
    clock = Clock(work.device)
    cuda = work.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with updates_counted(job["count"]) as updates:
        trained = train(work, clock)
    whole = time.perf_counter() - started
    networks = len(work.kind.modules(trained.model))
    late = {"late_seconds": clock.late_seconds, "late_steps": trained.steps - clock.late_steps}
    return {
        "seconds": clock.seconds,
        "steps": trained.steps,
        "whole_seconds": whole,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "metric": work.metric(trained.model),
        "updates": updates[0] / networks if job["count"] and updates[0] else None,
        **(late if 0 < clock.late_steps < trained.steps else {}),
        "threads": torch.get_num_threads(),
        "peak_rss": peak_memory(),
        "details": trained.details,
        "peak_cuda": torch.cuda.max_memory_allocated() if cuda else 0,
    }


def peak_memory() -> int:
    """Bytes of the largest resident set of this program.

    Not ``ru_maxrss``, which begins with what the parent held when it started this process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    asked, answered = private_streams()
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    for line in asked:
        try:
            answer = perform(sys.argv[1], json.loads(line))
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answered.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()

"""Train one run to its end through kills: fork, train or resume, SIGKILL at a random instant, again.

    python killed.py ROOT SEED KILLS OVERRIDE...

torch is imported once and every attempt is a fork, so that a kill lands in training and not in an import. Prints one
JSON line: the hash of all weights, optimizer state and metrics at the end, and where the kills landed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from dlrun.config import compose
from dlrun.resume import resume
from dlrun.run import train
from dlrun.training.checkpoint import Checkpoints
from quiet import Quiet


def attempt(root: Path, overrides: list[str]) -> None:
    """Start the run, or go on with the one that is there."""
    runs = sorted(root.glob("*/*/config.yaml"))
    if runs:
        resume(runs[0].parent, overrides=[], reporter=Quiet())
    else:
        train(compose(overrides), root=root, command=["dlrun", "train"], reporter=Quiet())


def saved_step(root: Path) -> int:
    """The newest checkpoint's step, -1 when there is none."""
    return max((int(path.stem.partition("-")[2]) for path in root.glob("*/*/checkpoints/step-*.ckpt")), default=-1)


def forked(root: Path, overrides: list[str], kill_after: float | None, progress: bool = False) -> int:
    """One attempt in a child; returns its wait status. A child that is not killed must end well.

    With ``progress`` the time until the kill begins when the attempt has saved a checkpoint of its own.
    """
    before = saved_step(root)
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 1
        try:
            attempt(root, overrides)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        while progress and saved_step(root) <= before:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.002)
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def digest(value: Any) -> str:
    """A hash of every tensor, number and string of a checkpoint's state, except clocks."""
    found = hashlib.sha256()

    def walk(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            found.update(str(node.dtype).encode() + node.contiguous().numpy().tobytes())
        elif isinstance(node, dict):
            for key in sorted(node, key=str):
                if key not in ("seconds", "examples_per_second"):
                    found.update(str(key).encode())
                    walk(node[key])
        elif isinstance(node, (list, tuple)):
            for item in node:
                walk(item)
        else:
            found.update(repr(node).encode())

    walk(value)
    return found.hexdigest()


def main() -> None:
    root, seed, kills, overrides = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # its hidden import belongs to the parent too
    started = time.perf_counter()
    assert forked(root / "whole", overrides, None) == 0
    whole_seconds = time.perf_counter() - started
    (whole,) = (root / "whole").glob("*/*/checkpoints")
    dice = random.Random(seed)
    landed, resumed_at = 0, []
    for i in range(kills):
        # Every other kill may land anywhere, in the start too; the rest within training, where there is most to lose.
        span = whole_seconds * 0.2 if i % 2 else whole_seconds * 0.8 / kills
        status = forked(root / "killed", overrides, dice.uniform(0, span), progress=i % 2 == 0)
        landed += os.WIFSIGNALED(status)
        resumed_at.append(saved_step(root / "killed"))
    assert forked(root / "killed", overrides, None) == 0
    (killed,) = (root / "killed").glob("*/*/checkpoints")
    states = [Checkpoints(folder).newest() for folder in (whole, killed)]
    steps = [
        [json.loads(line)["step"] for line in (folder.parent / "history.jsonl").read_text().splitlines()]
        for folder in (whole, killed)
    ]
    records = [json.loads((folder.parent / "run.json").read_text()) for folder in (whole, killed)]
    print(
        json.dumps(
            {
                "hashes": [digest(state[0]) for state in states if state is not None],
                "landed": landed,
                "resumed_at": sorted({step for step in resumed_at if step > 0}),
                "attempts": records[1]["attempts"],
                "status": records[1]["status"],
                "same_history": steps[0] == steps[1],
                "same_metrics": records[0]["metrics"] == records[1]["metrics"],
                "seconds": whole_seconds,
            }
        )
    )


if __name__ == "__main__":
    main()

"""A grid of 16 rates and 4 seeds on Fashion-MNIST, once in packs and once one by one, and how equal the 64 runs are.

    .venv/bin/python scripts/bench/packed_grid.py --root ../shared/data

Both sweeps are the command a user types. Compared are each pair of run directories: the weights after the last step
(per tensor, the norm of the difference over the norm), the rows of history.jsonl, the files, and the final records.
Writes results/packed_grid.md; exit code 1 when a trial is missing or a weight differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from machine import context

from dlrun.training.checkpoint import Checkpoints

RESULTS = Path(__file__).resolve().parent / "results" / "packed_grid.md"
# At higher rates the training itself amplifies rounding, packed or not: where every initial weight of a run alone is
# moved by one rounding (6e-8), its weights after 100 steps differ by 4e-6 at a rate of 0.001, by 2e-3 at 0.004 and by
# 0.35 at 0.01 (measured 2026-11-21); the lanes of a pack by 3e-7, 5e-4 and 0.34.
RATES = [round(1e-4 * 20 ** (i / 15), 7) for i in range(16)]
TRIALS, MOST = 16 * 4, 1e-5
TIMES = ("seconds", "examples_per_second")


def sweep(words: list[str], folder: Path) -> tuple[Path, float]:
    """Run a sweep with its outputs under a folder; its directory, and how many seconds it took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "dlrun", "sweep", *words, "--again", "--outputs", str(folder)]
    subprocess.run(command, check=True)
    [found] = folder.glob("*/*")
    return found, time.perf_counter() - started


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, which is that of the last step."""
    found = Checkpoints(run / "checkpoints").newest()
    assert found is not None, f"{run} has no checkpoint"
    return found[0]["model"]


def farthest(a: Path, b: Path) -> float:
    """The largest relative difference of a tensor."""
    one, other = weights(a), weights(b)
    return max(((one[name] - other[name]).norm() / other[name].norm().clamp(min=1e-12)).item() for name in other)


def rows(run: Path) -> list[dict[str, Any]]:
    """The history, without what is time."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def rows_differ(a: Path, b: Path) -> float:
    """The largest relative difference of a number in the histories; infinite where rows or names differ."""
    pairs = list(zip(rows(a), rows(b), strict=False))
    if len(rows(a)) != len(rows(b)) or any(one.keys() != other.keys() for one, other in pairs):
        return float("inf")
    numbers = [(one[name], other[name]) for one, other in pairs for name in one]
    return max(abs(x - y) / max(abs(y), 1e-6) for x, y in numbers)


def files(run: Path) -> set[str]:
    """The names of the run's files; event files, and checkpoints that time decides, by their kind."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {re.sub(r"events\..*", "events", re.sub(r"step-\d+", "step", name)) for name in names}


def main() -> int:
    """Run both sweeps, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder that holds FashionMNIST/raw")
    arguments = parser.parse_args()
    words = [
        "model=mlp", "model.hidden=[128]", "activation=tanh", "data=fashion_mnist", f"data.root={arguments.root}",
        "trainer.steps=100", "trainer.batch_size=128", f"optimizer.lr={','.join(map(str, RATES))}", "seeds=4",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        packed, together = sweep([*words, "launcher=packed"], Path(place) / "packed")
        local, apart = sweep([*words, "launcher=local", "--workers", "2"], Path(place) / "local")
        pairs = [(packed / run.name, run) for run in sorted(local.glob("0*-seed*"))]
        far = [farthest(a, b) for a, b in pairs]
        history = [rows_differ(a, b) for a, b in pairs]
        same_files = sum(files(a) == files(b) for a, b in pairs)
        records = [json.loads((a / "run.json").read_text()) for a, _ in pairs]
    done = sum(record["status"] == "done" for record in records)
    lanes = sorted({record.get("packed") for record in records})
    where = context(torch.device("cpu"), torch.get_num_threads(), 1)
    text = f"""# A grid of 16 rates x 4 seeds on Fashion-MNIST: packed against one by one

{datetime.now(UTC):%Y-%m-%d}, {", ".join(f"{key} {value}" for key, value in where.items() if key != "date")}.

`dlrun sweep {" ".join(words[:4])} ... launcher=packed` and `launcher=local --workers 2`; 100 steps each.

| | |
|---|---|
| run directories, of them done | {len(pairs)}, {done} |
| lanes of the pack | {", ".join(map(str, lanes))} |
| weights after 100 steps, largest relative difference of a tensor, worst run | {max(far):.1e} |
| the same, median run | {sorted(far)[len(far) // 2]:.1e} |
| rows of the history, largest relative difference of a number, worst run | {max(history):.1e} |
| runs with the same files | {same_files} |
| seconds, packed (one process) and one by one (two processes) | {together:.0f}, {apart:.0f} |
"""
    RESULTS.write_text(text)
    print(text)
    return 0 if len(pairs) == done == TRIALS and max(far) <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())

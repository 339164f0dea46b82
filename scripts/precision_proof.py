"""Whether bfloat16 is as accurate as float32, family by family: what ``precision=auto`` relies on.

    python scripts/precision_proof.py --root ../shared/data [--only mlp cnn] [--again]

Each family is trained on a small budget in float32 and under bfloat16 autocast, with the same seeds: the same first
weights, the same batches. Autocast on the CPU lowers what autocast on CUDA lowers and more (softmax and the
normalisations are rounded to bfloat16 too, which CUDA keeps in float32), so the CPU is the harder trial.

A family's two formats count as equal when the 95 % interval of the paired difference (Student's t over the seeds) lies
within a margin that was fixed before anything was run: 0.5 points for an accuracy, 1 % of the float32 value for a
loss. An interval that is too wide to say is no proof. Findings go to scripts/bench/results/precision.json after every
family and to precision.md beside it; a family that is there already is left out, unless ``--again`` is given. The
families that passed carry ``lowest_precision = "bfloat16"`` in src/dlrun/models; a test compares the two.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dlrun.config import compose
from dlrun.run import train
from dlrun.training.reporters import Silent

RESULTS = Path(__file__).resolve().parent / "bench" / "results"
POINTS, SHARE = 0.005, 0.01  # margins: of an accuracy, absolute; of a loss, relative
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
QUANTILES = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 11: 2.201, 15: 2.131, 19: 2.093}

FASHION = ("data=fashion_mnist", "data.root={root}", "trainer.limit.train=12000", "trainer.limit.val=1000")
CIFAR = ("data=cifar10", "data.root={root}", "trainer.limit.train=4000")
TEXT = ("data=text", "data.path={root}/tinyshakespeare/input.txt", "trainer.limit.val=400")
SERIES = ("data=series", "data.path={root}/ett/ETTh1.csv", "data.horizon=24", "trainer.limit.test=1000")
PICTURES = ("data=superres", "data.path={root}/superres/T91", "data.test_path={root}/superres/Set5")


@dataclass(frozen=True)
class Case:
    """A family, its task and budget; ``metric`` is of the best network, as a run reports it."""

    name: str
    metric: str
    words: tuple[str, ...]
    steps: int
    seeds: int = 8


CASES = (
    Case("perceptron", "test/accuracy", ("model=perceptron", *FASHION), 400),
    Case("mlp", "test/accuracy", ("model=mlp", *FASHION), 400),
    Case("cnn", "test/accuracy", ("model=cnn", *FASHION, "model.channels=[16,32]"), 250),
    Case("lenet5", "test/accuracy", ("model=lenet5", *FASHION), 300),
    Case("autoencoder", "test/loss", ("model=autoencoder", *FASHION), 400),
    Case("vae", "test/loss", ("model=vae", *FASHION), 400),
    Case("dlinear", "test/mse", ("model=dlinear", *SERIES), 300),
    Case("transformer", "val/loss", ("model=transformer", *TEXT, "model.layers=2", "model.width=64"), 300),
    Case("lstm", "val/loss", ("model=lstm", *TEXT, "model.hidden=64"), 300),
    Case("gru", "val/loss", ("model=gru", *TEXT, "model.hidden=64"), 300),
    Case("rnn", "val/loss", ("model=rnn", *TEXT, "model.hidden=64"), 300),
    Case("vit", "test/accuracy", ("model=vit", *FASHION, "model.layers=2", "model.patch=7"), 300),
    Case("transformer_encoder", "test/mse", ("model=transformer_encoder", *SERIES, "model.dropout=0"), 300),
    Case("patch_transformer", "test/mse", ("model=patch_transformer", *SERIES, "model.dropout=0"), 150, 5),
    Case("conv_autoencoder", "test/loss", ("model=conv_autoencoder", *FASHION), 150, 5),
    Case("resnet", "test/accuracy", ("model=resnet", *FASHION, "model.depth=8", "trainer.limit.test=4000"), 200, 5),
    Case("srcnn", "val/loss", ("model=srcnn", *PICTURES), 200, 5),
    Case("espcn", "val/loss", ("model=espcn", *PICTURES), 200, 5),
    Case("svm", "test/accuracy", ("model=svm", *FASHION), 300),
)


@dataclass(frozen=True)
class Finding:
    """What a family's two formats came to."""

    name: str
    metric: str
    words: str
    steps: int
    float32: list[float]
    bfloat16: list[float]
    mean: float
    low: float
    high: float
    margin: float
    equal: bool
    seconds: float


def main() -> None:
    """Prove the families asked for that are not proved yet, and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], default=None)
    parser.add_argument("--again", action="store_true", help="prove anew what was proved before")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    path = asked.results / "precision.json"
    known: dict[str, Any] = json.loads(path.read_text())["families"] if path.exists() else {}
    for case in CASES:
        if (asked.only and case.name not in asked.only) or (case.name in known and not asked.again):
            continue
        finding = prove(case, asked.root.resolve())
        known[case.name] = asdict(finding)
        write(asked.results, known)
        print(
            f"{case.name}: {'equal' if finding.equal else 'not shown equal'}, {describe(asdict(finding))}", flush=True
        )


def prove(case: Case, root: Path) -> Finding:
    """Train every seed both ways, in turning order."""
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    started = time.perf_counter()
    for seed in range(case.seeds):
        for way in ("fp32", "bf16") if seed % 2 else ("bf16", "fp32"):
            found[way].append(trained(case, root, seed, way))
            print(f"  {case.name}, seed {seed}, {way}: {found[way][-1]:.5f}", file=sys.stderr, flush=True)
    mean, low, high = interval([b - a for a, b in zip(found["fp32"], found["bf16"], strict=True)])
    accuracy = case.metric.endswith("accuracy")
    margin = POINTS if accuracy else SHARE * abs(statistics.fmean(found["fp32"]))
    return Finding(
        case.name, case.metric, " ".join(case.words), case.steps, found["fp32"], found["bf16"],
        mean, low, high, margin, -margin < low <= high < margin, time.perf_counter() - started,
    )  # fmt: skip


def trained(case: Case, root: Path, seed: int, way: str) -> float:
    """The metric of one run."""
    words = [word.format(root=root) for word in case.words]
    words += [f"precision={way}", f"trainer.steps={case.steps}", f"trainer.seed={seed}", "trainer.device=cpu"]
    words += ["schedule=cosine"]  # an ending that has settled: less noise from run to run
    with tempfile.TemporaryDirectory() as folder:
        command = ["dlrun", "train", *words]
        config = compose([*words, "tracking=minimal"])
        outcome = train(config, root=Path(folder), command=command, reporter=Silent())
    return outcome.metrics[case.metric]


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences.

    Raises:
        ValueError: so few or so many pairs that the quantile is not in the table.
    """
    if len(differences) - 1 not in QUANTILES:
        raise ValueError(f"no quantile for {len(differences)} pairs; have {[n + 1 for n in QUANTILES]}")
    mean = statistics.fmean(differences)
    half = QUANTILES[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def describe(row: dict[str, Any]) -> str:
    """A finding in one line."""
    accuracy = row["metric"].endswith("accuracy")
    of, unit = (0.01, "points") if accuracy else (0.01 * abs(statistics.fmean(row["float32"])), "%")
    mean, low, high = (row[name] / of for name in ("mean", "low", "high"))
    return f"difference {mean:+.2f} [{low:+.2f}, {high:+.2f}] {unit} within ±{row['margin'] / of:.2g}"


def write(results: Path, known: dict[str, Any]) -> None:
    """Both files, with what they were measured on."""
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "bfloat16 products in hardware": bool(torch.cpu._is_avx512_bf16_supported()),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "precision.json").write_text(json.dumps({"about": about, "families": known}, indent=1) + "\n")
    lines = [
        "# bfloat16 beside float32",
        "",
        "Made by `scripts/precision_proof.py`, whose head says how: " + ", ".join(f"{k} {v}" for k, v in about.items()),
        "",
        "| family | task | steps | seeds | metric | float32 | bfloat16 | difference, 95 % interval | equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in known.values():
        task = row["words"].split("data=")[1].split()[0]
        means = " | ".join(f"{statistics.fmean(row[way]):.4f}" for way in ("float32", "bfloat16"))
        lines.append(
            f"| {row['name']} | {task} | {row['steps']} | {len(row['float32'])} | {row['metric']} | {means} | "
            f"{describe(row)} | {'yes' if row['equal'] else '**not shown**'} |"
        )
    (results / "precision.md").write_text("\n".join(lines) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()

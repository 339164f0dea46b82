"""The reporter for a log file keeps what is worth keeping, one line each."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import torch

from dlrun.tasks import Evaluation
from dlrun.training.reporters import Lines

NONE = torch.zeros(0)


def test_a_log_has_a_line_for_each_thing_and_none_for_progress() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    chosen = SimpleNamespace(choices=[("loss", "cross_entropy", "10 classes"), ("model", "mlp", "")], notes=["a note"])
    lines.experiment(chosen, Path("a/run"))
    lines.progress(1, 2, 0.5, {"train/loss": 1.0})
    lines.evaluation(Evaluation("val", 1200, 1.0, {"accuracy": 0.91234567}, NONE, NONE), {}, None)
    lines.warn("it stands still")
    lines.closing("The best network", {"test/accuracy": 0.9}, {}, Path("a/run"), {"steps": "1,200"})
    lines.stop()
    assert stream.getvalue().splitlines() == [
        "loss: cross_entropy (10 classes)",
        "model: mlp",
        "note: a note",
        "run: a/run",
        "step 1,200: val/accuracy 0.912346",
        "warning: it stands still",
        "The best network: test/accuracy 0.9",
        "steps: 1,200",
    ]

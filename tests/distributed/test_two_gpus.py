"""The same on two GPUs over NCCL: the curve of one, batch normalisation over the whole batch, a kill that ends all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from two_processes import curve, last, record, runs, started, words

LIMIT = 300.0
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def dlrun(*line: str, folder: Path) -> str:
    with started("-m", "dlrun", *line, folder=folder) as process:
        text, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, text
    return text


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_gpus_follow_the_curve_of_one(engine: str, tmp_path: Path) -> None:
    same = ["trainer.steps=20", "trainer.device=cuda", "precision=fp32", "optimizer=sgd"]
    dlrun(*words(*same), folder=tmp_path)
    dlrun(*words(*same, "trainer.devices=2", f"engine={engine}"), folder=tmp_path)
    alone, together = runs(tmp_path)
    assert [v for _, v in curve(together)] == pytest.approx([v for _, v in curve(alone)], rel=1e-4)


def test_batch_normalisation_looks_at_the_whole_batch(tmp_path: Path) -> None:
    same = ["trainer.steps=10", "trainer.device=cuda", "precision=fp32", "optimizer=sgd", "model.batch_norm=true"]
    dlrun(*words(*same), folder=tmp_path)
    dlrun(*words(*same, "trainer.devices=2"), folder=tmp_path)
    alone, together = runs(tmp_path)
    assert [v for _, v in curve(together)] == pytest.approx([v for _, v in curve(alone)], rel=1e-3)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_bfloat16_trains_on_two_gpus(engine: str, tmp_path: Path) -> None:
    dlrun(*words("trainer.steps=20", "precision=bf16", "trainer.devices=2", f"engine={engine}"), folder=tmp_path)
    found = record(last(tmp_path))
    assert found["status"] == "done"
    assert found["metrics"]["train/loss"] < 1.1  # three classes: a guess has log 3

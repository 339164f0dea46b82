from __future__ import annotations

import json
from multiprocessing import active_children
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlrun.config import compose
from dlrun.data.facts import Facts
from dlrun.run import train
from dlrun.training.data_wait import GIB, DataWait, data_wait, free_memory, remedies
from quiet import Quiet

IMAGES = Facts("image_folder", "image", (3, 64, 64), "classification", sizes={"train": 90_000, "test": 10_000})
TABLE = Facts("csv", "table", (4,), "regression", sizes={"train": 10})


class Part:
    workers = 2

    def __init__(self) -> None:
        self.closed = 0

    def seen(self, steps: int) -> int:
        return 10 * steps

    def close(self) -> None:
        self.closed += 1


def ended(rows: list[dict[str, float]], step: int = 0) -> tuple[list[str], Part]:
    reporter, part = Quiet(), Part()
    trainer: Any = SimpleNamespace(train=part, facts=TABLE, step=step)
    (watch,) = data_wait((part, None), reporter)  # type: ignore[arg-type]
    watch.on_start(trainer)
    for row in rows:
        trainer.step += 50
        watch.on_log(trainer, row)
    watch.on_end(trainer)
    return reporter.notes, part


def test_the_note_weighs_each_row_by_its_time() -> None:
    rows = [{"examples_per_second": 50.0, "data_wait": 0.5}, {"examples_per_second": 500.0, "data_wait": 0.0}]
    (said,), part = ended(rows)  # 5 of 10 + 1 seconds
    assert said.startswith("the training waited for its data 45% of the time; what helps: ")
    assert part.closed == 1
    assert ended(rows, step=1000)[0] == [said]


def test_little_waiting_is_not_worth_a_word() -> None:
    assert ended([{"examples_per_second": 50.0, "data_wait": 0.19}])[0] == []
    assert ended([])[0] == []


def test_data_that_is_held_is_not_watched() -> None:
    assert data_wait((SimpleNamespace(workers=None), None), Quiet()) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "workers", "cores", "free", "first"),
    [
        (IMAGES, 8, 8, 8 * GIB, "data.memory=1.2 reads the images whole"),  # 1.144 GiB
        (IMAGES, 2, 8, 2 * GIB, "trainer.workers=8"),
        (IMAGES, 8, 8, 2 * GIB, "a smaller data.size"),
        (TABLE, 8, 8, 8 * GIB, "a faster disk"),
    ],
)
def test_what_helps_is_what_can_be_done_here(facts: Facts, workers: int, cores: int, free: float, first: str) -> None:
    assert remedies(facts, workers, cores, free).startswith(first)


def test_free_memory_is_a_share_of_the_machines() -> None:
    assert 0 <= free_memory() < 2**50


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_over_a_stream_logs_its_waits_and_leaves_no_worker(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(path)
    monkeypatch.setattr("dlrun.training.data_wait.WORTH_SAYING", -1.0)
    settings = [f"data.path={tmp_path / 'photos'}", "data.memory=0", "trainer.workers=2", "trainer.batch_size=8"]
    before, reporter = set(active_children()), Quiet()
    config = compose(["data=image_folder", *settings, "trainer.epochs=3", "tracking=minimal", "tracking.every=2"])
    outcome = train(config, root=tmp_path / "runs", command=["dlrun"], reporter=reporter)
    assert set(active_children()) <= before
    assert any("the training waited for its data" in text for text in reporter.notes)
    rows = [json.loads(line) for line in (outcome.path / "history.jsonl").read_text().splitlines()]
    waits = [row["data_wait"] for row in rows if "rate" in row]
    assert len(waits) >= 4
    assert all(0.0 <= wait <= 1.0 for wait in waits)
    assert sum(waits) > 0.0


def test_a_run_over_held_data_logs_none(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = compose(["trainer.steps=4", "tracking=minimal", "tracking.every=2", "model.hidden=[4]"])
    outcome = train(config, root=tmp_path, command=["dlrun"], reporter=Quiet())
    assert "data_wait" not in (outcome.path / "history.jsonl").read_text()


def test_a_callback_counts_its_parts_once() -> None:
    part = Part()
    watch = DataWait(Quiet(), [part], 2, cores=4, free=0.0)  # type: ignore[list-item]
    for split, closed in (("val", 0), ("test", 1)):
        watch.on_evaluation(None, SimpleNamespace(split=split))  # type: ignore[arg-type]
        assert part.closed == closed

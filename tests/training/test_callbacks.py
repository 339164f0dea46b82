"""What watches a run: rows to the history, lines to the reporter, checkpoints when due."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from dlrun.errors import DivergedError
from dlrun.tracking.history import History
from dlrun.training.callbacks import Callback, Progress, Recorder, Saver
from dlrun.training.checkpoint import Checkpoints
from quiet import Quiet
from tiny import make_trainer, plan


def saver(folder: Path, every: int | None, **more: Any) -> Saver:
    return Saver(Checkpoints(folder / "checkpoints"), History(folder / "history.jsonl"), every, {"extra": 1}, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*"))


def test_a_callback_does_nothing_by_itself() -> None:
    trainer = make_trainer(Callback())
    assert trainer.fit() == "finished"


def test_rows_and_evaluations_become_history(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    make_trainer(Recorder(history)).fit()
    rows = history.rows()
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 3, 6]
    assert {2, 3, 5, 6} == {row["step"] for row in rows if "train/loss" in row}
    assert all({"step", "epoch", "seconds"} <= set(row) for row in rows)


def test_progress_is_told_at_most_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("dlrun.training.callbacks.time.perf_counter", lambda: float(next(clock)))
    told: list[int] = []

    class Telling(Quiet):
        def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
            super().progress(step, total, share, values)
            assert total == 6
            told.append(step)

    reporter = Telling()
    watcher, trainer = Progress(reporter, interval=2.0), make_trainer(val=None)
    for step in range(1, 7):  # the clock goes on by a second each time
        trainer.step = step
        watcher.on_step(trainer, {})
    assert told == [1, 3, 5]


def test_progress_reports_evaluations_with_their_baseline() -> None:
    reporter = Quiet()
    make_trainer(Progress(reporter)).fit()
    assert [evaluation.step for evaluation in reporter.evaluations] == [0, 3, 6]


def test_checkpoints_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    trainer = make_trainer(saver(tmp_path, 2), plan=plan(total=5, every=5))
    trainer.fit()
    assert names(tmp_path) == ["best.ckpt", "step-00000004.ckpt", "step-00000005.ckpt"]
    found = Checkpoints(tmp_path / "checkpoints").newest()
    assert found is not None
    assert found[0]["extra"] == 1
    assert torch.equal(found[0]["model"]["weight"], trainer.model.weight)  # type: ignore[arg-type]
    best = Checkpoints(tmp_path / "checkpoints").best()
    assert best is not None
    assert trainer.best is not None
    assert (best["step"], best["value"]) == (trainer.best.step, trainer.best.value)


def test_a_step_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: written.append(step))
    make_trainer(saver(tmp_path, 2)).fit()
    assert written == [2, 4, 6]


def test_auto_keeps_saving_under_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("dlrun.training.callbacks.time.perf_counter", lambda: clock[0])
    written: list[float] = []

    def save(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        written.append(clock[0])
        clock[0] += 0.5  # what a save costs

    monkeypatch.setattr(Checkpoints, "save", save)
    watcher, trainer = saver(tmp_path, None, share=0.05), make_trainer(val=None)
    for step in range(1, 300):
        trainer.step = step
        clock[0] += 0.1
        watcher.on_step(trainer, {})
    assert written[0] == pytest.approx(1.0, abs=0.11)
    gaps = [b - a for a, b in pairwise(written)]
    assert gaps
    assert gaps == pytest.approx([10.5] * len(gaps), abs=0.2)  # 0.5 s of saving for each 10 s of training


def test_the_first_save_waits_until_what_it_costs_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlrun.training.callbacks.time.perf_counter", lambda: 100.0)
    trainer = make_trainer(val=None)
    small, large = saver(tmp_path, None, share=0.01), saver(tmp_path, None, share=0.01)
    small.on_start(trainer)
    assert small.due == pytest.approx(102.0, abs=0.01)  # 20 milliseconds for a file
    trainer.updater.parameters = [torch.nn.Parameter(torch.empty(12_500_000))]  # 200 MB with its moments: a second
    large.on_start(trainer)
    assert large.due == pytest.approx(202.0, abs=0.1)


def test_what_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    watcher, trainer = saver(tmp_path, 1), make_trainer(val=None)
    trainer.step = 1
    trainer.model.weight.data[0, 0] = float("nan")  # type: ignore[union-attr, operator, index]
    with pytest.raises(DivergedError, match="weight"):
        watcher.on_step(trainer, {})
    assert names(tmp_path) == []


def test_a_resumed_run_writes_neither_its_step_nor_its_best_again(tmp_path: Path) -> None:
    make_trainer(saver(tmp_path, 2)).fit()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    found, best = checkpoints.newest(), checkpoints.best()
    assert found is not None
    assert best is not None
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()}
    again = make_trainer(saver(tmp_path, 2))
    again.load_state_dict(found[0], best)
    again.fit()
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()} == before

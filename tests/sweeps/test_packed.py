"""The recipe for a pack, from trials to run directories: these cannot be told from those of the trials alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from dlrun.packing.flat import Unpackable
from dlrun.resume import resume
from dlrun.sweeps import measuring, packed
from dlrun.sweeps.child import run_trial
from dlrun.sweeps.measuring import Pace
from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, Ending, Trial
from dlrun.sweeps.packed import train_pack
from dlrun.tasks import Evaluation
from dlrun.tracking.lock import is_held
from dlrun.training.callbacks import Callback
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.reporters import Silent
from dlrun.training.trainer import Trainer
from pack_cases import COMMON, MLP, composed, distances

WORDS = (*COMMON, *MLP, "tracking.every=25")
WITH_BOARD = (
    *(word for word in WORDS if word != "tracking=minimal"),
    "tracking=tensorboard",
    "tracking.share=0",
    "trainer.checkpoint_every=40",
)
LANES = ["optimizer.lr=1e-3 trainer.seed=0", "optimizer.lr=1e-2 trainer.seed=1", "optimizer.lr=3e-3 trainer.seed=0"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0.0)


def trials(folder: Path, lanes: Sequence[str] = LANES, words: tuple[str, ...] = WORDS) -> list[Trial]:
    folder.mkdir(exist_ok=True)
    made = []
    for number, lane in enumerate(lanes):
        config = composed(words, lane)
        seed = int(config.trainer.seed)
        path = folder / f"{number:04d}-seed{seed}"
        made.append(Trial(number, seed, path, OmegaConf.to_yaml(config), ("dlrun", "train", *words, *lane.split())))
    return made


def train(
    made: Sequence[Trial], callbacks_of: Callable[[int], Sequence[Callback]] = lambda lane: (), **more: Any
) -> dict[int, Ending]:
    ended: dict[int, Ending] = {}

    def note(lane: int, ending: Ending) -> None:
        assert lane not in ended, "a trial ends once"
        ended[lane] = ending

    arguments: dict[str, Any] = {"trusted": (), "reporter": Silent(), "chooses": False} | more
    train_pack(made, callbacks_of=callbacks_of, ended=note, **arguments)
    return ended


def record(trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((trial.folder / "run.json").read_text())
    return found


def rows(trial: Trial) -> list[dict[str, float]]:
    lines = (trial.folder / "history.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in ("seconds", "examples_per_second")}
        for line in lines
    ]


def files(trial: Trial) -> set[str]:
    """By name; an event file's has the time and the process in it."""
    found = (path.relative_to(trial.folder) for path in trial.folder.rglob("*") if path.is_file())
    return {str(path.parent / "events") if "tfevents" in path.name else str(path) for path in found}


def scalars(trial: Trial) -> dict[str, list[int]]:
    """The steps of each tag in TensorBoard."""
    board = EventAccumulator(str(trial.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [event.step for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def last_weights(trial: Trial) -> dict[str, Tensor]:
    found = Checkpoints(trial.folder / "checkpoints").newest()
    assert found is not None
    state: dict[str, Tensor] = found[0]["model"]
    return state


def test_run_directories_are_those_of_the_trials_alone(tmp_path: Path) -> None:
    mine, others = (trials(tmp_path / name, words=WITH_BOARD) for name in ("packed", "alone"))
    ended = train(mine)
    for trial in others:
        run_trial(trial, (), ())
    assert ended == {lane: Ending(DONE) for lane in range(3)}
    for one, other in zip(mine, others, strict=True):
        assert files(one) == files(other)
        assert (one.folder / "config.yaml").read_text() == (other.folder / "config.yaml").read_text()
        assert [list(row) for row in rows(one)] == [list(row) for row in rows(other)]
        for found, wanted in zip(rows(one), rows(other), strict=True):
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert scalars(one) == scalars(other)
        found, wanted = record(one), record(other)
        assert found.keys() - wanted.keys() == {"packed"}
        assert found["packed"] == 3
        for key in ("status", "ended_by", "steps", "epochs", "key", "exit_code", "parameters", "data", "seed"):
            assert found[key] == wanted[key]
        assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-4, abs=1e-6)
        assert max(distances(last_weights(one), last_weights(other)).values()) < 1e-5
        assert not is_held(one.folder / "run.lock")


class At(Callback):
    """Does something once, after a step."""

    def __init__(self, step: int, do: Callable[[Trainer], Any]) -> None:
        self.step, self.do = step, do

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        if trainer.step == self.step:
            self.do(trainer)


def test_an_interrupted_pack_is_saved_and_its_runs_go_on_alone(tmp_path: Path) -> None:
    mine, others = trials(tmp_path / "packed"), trials(tmp_path / "alone")
    stop = At(50, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        train(mine, lambda lane: (stop,) if lane == 0 else ())
    assert end.value.code == 128 + signal.SIGTERM
    assert [(record(trial)["status"], record(trial)["steps"]) for trial in mine] == [("interrupted", 50)] * 3
    for one, other in zip(mine, others, strict=True):
        outcome = resume(one.folder, overrides=[], reporter=Silent())
        run_trial(other, (), ())
        assert outcome.status == "done"
        assert record(one)["attempts"] == 2
        assert max(distances(last_weights(one), last_weights(other)).values()) < 1e-5
        assert [list(row) for row in rows(one)] == [list(row) for row in rows(other)]


def test_each_trial_has_its_own_ending(tmp_path: Path) -> None:
    """One is pruned, one diverges, one raises, one finds its folder taken; the last is done."""

    class Prunes(Callback):
        def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
            trainer.end("pruned")

    def fails(trainer: Trainer) -> None:
        raise ValueError("a planted mistake")

    def watching(lane: int) -> Sequence[Callback]:
        return {0: (Prunes(),), 2: (At(25, fails),)}.get(lane, ())

    lanes = ["", "optimizer.lr=1e30", "trainer.seed=1", "trainer.seed=2", "trainer.seed=3"]
    made = trials(tmp_path / "packed", lanes, (*WORDS, "optimizer=sgd", "activation=identity"))
    made[3].folder.mkdir()
    (made[3].folder / "run.json").write_text("{}")
    ended = train(made, watching)
    assert [ended[lane].status for lane in range(5)] == [PRUNED, DIVERGED, FAILED, FAILED, DONE]
    assert "ValueError: a planted mistake" in ended[2].error
    assert ended[1].exit_code == 6
    kept = [0, 1, 2, 4]
    assert [record(made[lane])["status"] for lane in kept] == ["pruned", "diverged", "failed", "done"]
    assert [record(made[lane]).get("steps") for lane in (0, 4)] == [0, 100]
    assert not any(is_held(made[lane].folder / "run.lock") for lane in kept)


def test_trials_that_are_faster_one_by_one_are_left_before_any_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "measure", lambda *_: Pace(alone=1e-4, packed=2e-4))
    made = trials(tmp_path / "packed")
    with pytest.raises(Unpackable, match=r"one by one they are faster .*200 in the pack, 100 alone"):
        train(made, chooses=True)
    assert not any(trial.folder.exists() for trial in made)
    monkeypatch.setattr(packed, "measure", lambda *_: Pace(alone=2e-4, packed=1e-4))
    assert {ending.status for ending in train(made, chooses=True).values()} == {DONE}


def test_the_measurement_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = trials(tmp_path / "first"), trials(tmp_path / "second")
    train(first)
    monkeypatch.setattr(packed, "measure", lambda *_: Pace(alone=2e-4, packed=1e-4))
    torch.manual_seed(123)
    train(second)
    for one, other in zip(first, second, strict=True):
        found, wanted = last_weights(one), last_weights(other)
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_what_cannot_train_together_leaves_no_run_behind(tmp_path: Path) -> None:
    made = trials(tmp_path / "packed", ["optimizer=adam", "optimizer=sgd"])
    with pytest.raises(Unpackable, match="different optimizers"):
        train(made)
    assert not any(trial.folder.exists() for trial in made)

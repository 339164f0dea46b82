"""Which engine a run gets, and that a run through recordings is the run as written: trained, interrupted, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.algorithms.closure import Closure
from dlrun.build import check
from dlrun.config import compose
from dlrun.engines.auto import Auto
from dlrun.engines.cuda_graph import CudaGraph
from dlrun.engines.eager import Eager
from dlrun.engines.recording import GaveUp
from dlrun.engines.take_and_view import Records, take_and_view
from dlrun.errors import ConfigError
from dlrun.resume import resume
from dlrun.run import Outcome, train
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.evaluation import as_it_is
from dlrun.training.taking import one_step
from quiet import Quiet
from tape import Tape

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORDS = ["data=iris", "model=mlp", "model.hidden=[8]", "trainer.epochs=20", "trainer.device=cpu", "tracking=minimal"]


def test_the_choice_depends_on_device_and_algorithm() -> None:
    assert Auto().choice(Backpropagation, CPU)[0] == "eager"
    assert Auto().choice(Backpropagation, CUDA)[0] == "cuda_graph"
    assert Auto().choice(Closure, CUDA) == ("eager", f"auto: {Closure.ungraphable}")
    assert CudaGraph().choice(Backpropagation, CPU)[0] == "eager"


def test_auto_is_the_default_and_shown() -> None:
    experiment = check(compose(["trainer.device=cpu"]))
    assert isinstance(experiment.engine, Auto)
    assert ("engine", "eager", "auto: the CPU waits for no launches") in experiment.choices


def test_only_engines_that_record_drive() -> None:
    notes: list[GaveUp] = []
    for engine in (Eager(), Auto()):
        assert take_and_view(engine, CPU, as_it_is, notes.append).take is one_step
    assert not isinstance(Eager(), Records)
    assert not notes
    assert take_and_view(CudaGraph(), CPU, as_it_is, notes.append).take is one_step
    assert notes == [GaveUp(0, "CUDA graphs need a CUDA device, and this is cpu")]


@pytest.mark.parametrize(("steps", "sizes"), [("auto", (16, 4, 1)), (1, (1,)), (3, (3, 1))])
def test_steps_in_one_graph(steps: Any, sizes: tuple[int, ...]) -> None:
    assert tuple(CudaGraph(steps).sizes) == sizes


@pytest.mark.parametrize("steps", [0, -1, "many", True, 1.5])
def test_other_numbers_of_steps_are_refused(steps: Any) -> None:
    with pytest.raises(ConfigError, match=r"engine\.steps"):
        CudaGraph(steps)


class Recorded:
    """An engine that records on the CPU."""

    sizes, short = (4, 1), float("inf")

    def __init__(self) -> None:
        self.tape = Tape()

    def prepare(self, algorithm: Any) -> Any:
        return algorithm.step

    def recorder(self, device: torch.device) -> Tape:
        return self.tape


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()
    monkeypatch.setattr(Auto, "recorder", lambda self, device: found.tape)
    monkeypatch.setattr(Auto, "sizes", (4, 1))
    monkeypatch.setattr(Auto, "short", float("inf"))
    return found


def trained(folder: Path, *words: str, reporter: Quiet | None = None) -> Outcome:
    config = compose([*WORDS, "optimizer.lr=0.0078125", *words])
    return train(config, root=folder, command=["dlrun"], reporter=reporter or Quiet(), folder=folder / "run")


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = RunDirectory.open(folder / "run").record()
    return found


def learnt(outcome: Outcome) -> dict[str, float]:
    """What a run ended with, without the clock."""
    return {name: value for name, value in outcome.metrics.items() if "per_second" not in name}


def test_a_run_through_recordings_is_the_run_as_written(tmp_path: Path, engine: Recorded) -> None:
    recorded = trained(tmp_path / "a", "trainer.ema=0.9", "schedule=linear")
    assert engine.tape.replays > 10
    written = trained(tmp_path / "b", "trainer.ema=0.9", "schedule=linear", "engine=eager")
    assert learnt(recorded) == learnt(written)
    assert [record(tmp_path / name)["engine"] for name in "ab"] == ["recorded", "as written"]


def test_a_recorded_run_goes_on_to_the_same_end(tmp_path: Path, engine: Recorded) -> None:
    whole = trained(tmp_path / "a", "engine=eager")
    trained(tmp_path / "b", "trainer.epochs=9")
    before = engine.tape.replays
    resumed = resume(tmp_path / "b" / "run", overrides=["trainer.epochs=20"], reporter=Quiet())
    assert engine.tape.replays > before + 10
    assert learnt(resumed) == learnt(whole)


class Broken(Tape):
    """A device on which nothing can be recorded."""

    def capture(self, work: Any) -> Any:
        self.captures += 1
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class Late(Tape):
    """A device on which the third recording fails."""

    def capture(self, work: Any) -> Any:
        if self.captures == 2:
            self.captures += 1
            raise RuntimeError("out of memory")
        return super().capture(work)


def test_where_a_run_gave_up_is_written_down_and_kept_until_it_comes_there_again(
    tmp_path: Path, engine: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.tape = Late()
    whole = trained(tmp_path / "a")
    found, notes = record(tmp_path / "a"), "the steps run as they are written, not recorded: out of memory"
    assert (found["engine"], found["engine_reason"]) == ("as written", "out of memory")
    step = found["engine_step"]
    assert 0 < step < found["steps"]

    trained(tmp_path / "b", "trainer.epochs=1")  # its record is that of a run killed again on its way
    RunDirectory.open(tmp_path / "b" / "run").write_record(
        engine="recorded", engine_reason="out of memory", engine_step=step
    )
    engine.tape, reporter = Tape(), Quiet()
    resumed = resume(tmp_path / "b" / "run", overrides=["trainer.epochs=20"], reporter=reporter)
    assert engine.tape.replays > 0
    assert notes in reporter.notes
    assert record(tmp_path / "b")["engine_step"] == step
    assert record(tmp_path / "b")["engine"] == "as written"
    assert learnt(resumed) == learnt(whole)


def test_a_run_that_gave_up_is_resumed_as_written(tmp_path: Path, engine: Recorded) -> None:
    engine.tape = Broken()
    whole = trained(tmp_path / "a", "engine=eager")
    trained(tmp_path / "b", "trainer.epochs=9")
    found = record(tmp_path / "b")
    assert found["engine"] == "as written"
    assert found["engine_reason"] == "operation not permitted when stream is capturing"
    assert engine.tape.captures == 2  # of a step, and of an evaluation
    resumed = resume(tmp_path / "b" / "run", overrides=["trainer.epochs=20"], reporter=Quiet())
    assert engine.tape.captures == 3  # of an evaluation, again in vain; of a step none
    assert learnt(resumed) == learnt(whole)

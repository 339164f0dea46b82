"""Every algorithm goes through a profile once; what comes out is whole, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import family_cases
from dlrun.config import compose
from dlrun.errors import ConfigError, StorageError
from dlrun.profiling import peaks, recipe, trials, ways
from dlrun.profiling.recipe import Wishes, profile
from dlrun.profiling.report import ONE_PIECE, Profile, as_json
from dlrun.profiling.surroundings import StoppedError
from dlrun.profiling.timings import Limits
from quiet import Quiet

TINY = ["trainer.device=cpu", "tracking=minimal", "trainer.limit={train: 80, val: 20, test: 20}"]
SMALL = "model.hidden=[16]"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(peaks.SIDE, "cpu", 64)
    monkeypatch.setattr(peaks, "LEAST_SECONDS", 0.0)
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_num_threads(before[1])


def profiled(*words: str, **wishes: Any) -> Profile:
    usual: dict[str, Any] = {"limits": Limits(steps=4), "try_seconds": 0.0}
    return profile(compose([*words, *TINY]), words, Wishes(**(usual | wishes)), Quiet())


def names(found: Profile) -> list[str]:
    return [f"{part.group} {part.name}".strip() for part in found.step.parts]


ALGORITHMS = {
    "backpropagation": ([SMALL], ["forward", "backward", "optimizer"]),
    "accumulation": ([SMALL, "trainer.accumulate=2", "trainer.clip_norm=1"], ["forward", "backward", "optimizer"]),
    "closure": ([SMALL, "optimizer=lbfgs"], ["forward", "backward", "optimizer"]),
    "truncated": (
        ["model=rnn", "model.hidden=8", *family_cases.TEXT, "algorithm=truncated_backpropagation"],
        ["forward", "backward", "optimizer"],
    ),
    "adversarial": (
        ["model=gan", "data=ring"],
        [f"{net} {name}" for net in ("discriminator", "generator") for name in ("forward", "backward", "optimizer")],
    ),
    "contrastive": (["model=rbm", "task.ais_steps=30"], ["positive phase", "negative phase", "optimizer"]),
    "layerwise": (["model=dbn", "algorithm.steps_per_layer=500"], ["layer's contrastive divergence"]),
}


def test_all_algorithms_are_here() -> None:
    from dlrun.config import config_dir

    files = {path.stem.partition("_")[0] for path in (config_dir() / "algorithm").glob("*.yaml")}
    assert files == set(ALGORITHMS) - {"accumulation"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_has_its_phases(name: str) -> None:
    words, expected = ALGORITHMS[name]
    found = profiled(*words)
    assert ["data wait", *expected] == names(found)[: len(expected) + 1]
    assert names(found)[-3:] == ["logging and saving", "the loop itself", "not accounted for"]
    assert sum(part.seconds.middle for part in found.step.parts) == pytest.approx(found.step.seconds)
    assert sum(part.share for part in found.step.parts) == pytest.approx(1)
    assert found.work is not None
    assert found.work.per_step > 0
    assert found.operators.rows
    assert found.verdict.sentence
    json.dumps(as_json(found), default=str, allow_nan=False)


def test_the_json_has_its_keys() -> None:
    found = as_json(profiled(SMALL))
    assert set(found) == {
        "about", "method", "measured", "step", "inside", "evaluation", "once", "work", "rate", "operators", "tried",
        "workers_tried", "left_out", "fixed_share", "verdict", "trace", "notes",
    }  # fmt: skip
    assert set(found["step"]) == {"seconds", "parts", "tolerance", "adds_up"}
    assert set(found["step"]["parts"][0]) == {"name", "group", "seconds", "share", "details"}
    assert set(found["step"]["parts"][0]["seconds"]) == {"middle", "low", "high"}
    assert set(found["work"]["bytes"]) == {"weights", "gradients", "optimizer", "activations"}
    assert found["measured"]["steps"] == 4
    assert found["rate"]["share"] == pytest.approx(found["rate"]["flops_per_second"] / found["rate"]["peak"])
    assert found["rate"]["flops_per_second"] == found["work"]["flops_per_step"] / found["step"]["seconds"]
    assert found["evaluation"]["every_steps"] == 100  # 20 epochs and at least 3,000 steps, evaluated 30 times
    assert found["inside"] is None
    assert found["trace"] is None


def test_other_settings_are_tried_on_copies() -> None:
    found = profiled(SMALL, try_seconds=0.05)
    words = {trial.words[0] for trial in found.trials.tried}
    assert {"precision=bf16", "seeds=8"} <= words
    assert any(word.startswith("trainer.threads=") for word in words) == (torch.get_num_threads() != ways.cores())
    assert "trainer.batch_size=128" not in words, "there are 80 examples"
    found = profiled(SMALL, "trainer.batch_size=20", try_seconds=0.05)
    assert "trainer.batch_size=40" in {trial.words[0] for trial in found.trials.tried}


def test_a_compiled_step_is_one_program_beside_its_written_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose program calls nothing that could be told apart."""
    from dlrun.engines.compiled import Compiled

    class Program:
        def __init__(self, algorithm: Any) -> None:
            self.algorithm = algorithm

        def __call__(self, batch: Any) -> Any:
            algorithm = self.algorithm
            algorithm.updater.zero_grad()
            loss, logs = type(algorithm).forward(algorithm, batch)
            loss.backward()
            algorithm.updater.step()
            return logs

    monkeypatch.setattr(Compiled, "prepare", lambda self, algorithm: Program(algorithm))
    monkeypatch.setattr(Compiled, "refusal", lambda self, algorithm, device: "")
    found = profiled(SMALL, "engine=compile")
    assert names(found)[:3] == ["data wait", ONE_PIECE, "optimizer"]
    assert found.inside is not None
    assert [part.name for part in found.inside.parts][:4] == ["data wait", "forward", "backward", "optimizer"]


def test_streamed_data_are_tried_on_a_few_batches_read_beforehand(family_files: dict[str, Path]) -> None:
    for part in ("a", "b"):
        folder = family_files["images"].parent / "classes" / part
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(sorted(family_files["images"].glob("*.png")) * 3):
            (folder / f"{i}.png").write_bytes(picture.read_bytes())
    path = family_files["images"].parent / "classes"
    words = ["model=cnn", "data=image_folder", f"data.path={path}", "data.size=8", "data.memory=0.000001"]
    words += ["trainer.workers=0", "trainer.batch_size=4", "trainer.limit.train=0.9"]
    found = profile(
        compose([*words, "trainer.device=cpu", "tracking=minimal"]), words, Wishes(Limits(steps=4), try_seconds=0.05),
        Quiet(),
    )  # fmt: skip
    assert found.about["placement"] == "streamed"
    assert names(found)[0] == "data wait"
    assert "trainer.batch_size=8" in {trial.words[0] for trial in found.trials.tried}


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    profiled(SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_cleans_up(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usual = signal.signal(number, signal.default_int_handler)  # also where nohup has the tests ignore SIGHUP
    before = signal.getsignal(number)

    def interrupted(*_: Any, **__: Any) -> None:
        assert any(tmp_path.iterdir()), "the run is there"
        signal.raise_signal(number)

    monkeypatch.setattr(recipe, "measure", interrupted)
    try:
        with pytest.raises((KeyboardInterrupt, StoppedError)) as end:
            profiled(SMALL, trace=tmp_path / "new" / "trace.json")
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, usual)
    assert number == signal.SIGINT or getattr(end.value, "exit_code", 0) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_the_line_of_progress_counts_the_trying_of_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never says that all is done while there is something to do, and does not stand still in the trials."""
    seen: list[tuple[int, float]] = []

    def look(self: Any, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        seen.append((step, share))

    monkeypatch.setattr(Quiet, "progress", look)
    monkeypatch.setattr(trials, "ROUNDS", 3)
    pack, measured = ways._pack, list[int]()

    def packed(*arguments: Any) -> Any:
        measured.append(len(seen))
        return pack(*arguments)

    monkeypatch.setattr(ways, "_pack", packed)
    try_all = ways.try_ways

    def tried(*arguments: Any) -> Any:
        measured.append(len(seen))
        return try_all(*arguments)

    monkeypatch.setattr(recipe, "try_ways", tried)
    profiled(SMALL, try_seconds=0.05)
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert max(shares) < 1
    first, last = measured
    trying = shares[first:last]
    assert len(set(trying)) >= 2 * (1 + 3), "two ways at least, each warmed up and measured in three rounds"
    assert seen[first][0] < seen[last - 1][0], "their steps are counted"


def test_without_trials_the_measurement_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Quiet, "progress", lambda self, step, total, share, values: seen.append(share))
    monkeypatch.setattr("dlrun.training.callbacks.Progress.on_step", _always)
    profiled(SMALL)
    assert seen[-1] == 1


def _always(self: Any, trainer: Any, logs: Any) -> None:
    self.reporter.progress(trainer.step, None, 0.0, {})


def test_a_trace_is_written_and_its_folder_made_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = recipe.measure

    def measured(*arguments: Any, **more: Any) -> Any:
        assert list(tmp_path.iterdir()) == [], "nothing is made before there is a trace"
        return measure(*arguments, **more)

    monkeypatch.setattr(recipe, "measure", measured)
    found = profiled(SMALL, trace=tmp_path / "new" / "trace.json")
    assert found.trace == tmp_path / "new" / "trace.json"
    assert json.loads(found.trace.read_text())["traceEvents"]


def test_a_place_that_cannot_be_written_is_refused_before_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "measure", lambda *_, **__: pytest.fail("it was measured"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"ends in \.json or \.json\.gz, or a folder"):
        profiled(SMALL, trace=tmp_path / "folder.json")
    with pytest.raises(ConfigError, match=r"ends in \.json or \.json\.gz, or a folder"):
        profiled(SMALL, trace=tmp_path / "file")
    with pytest.raises(StorageError, match="choose another place"):
        profiled(SMALL, trace=tmp_path / "file" / "below" / "trace.json")


def test_several_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="a profile is of one process"):
        profiled(SMALL, "trainer.devices=2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_recorded_steps_are_one_program_and_have_kernels() -> None:
    words = [SMALL, "engine=auto", "trainer.device=cuda", "tracking=minimal"]
    found = profile(compose(words), words, Wishes(Limits(steps=200), try_seconds=0.5), Quiet())
    assert names(found)[0:1] == [ONE_PIECE] or names(found)[:2] == ["data wait", ONE_PIECE]
    assert found.inside is not None
    assert {"forward", "backward", "optimizer"} <= {part.name for part in found.inside.parts}
    assert found.operators.kernel_calls > 5
    assert found.operators.busy > 0
    assert not found.peak.measured or found.peak.flops > 1e12
    assert {"precision=bf16", "precision=tf32"} & {trial.words[0] for trial in found.trials.tried}
    assert "GPU" in found.method

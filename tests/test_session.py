"""From a checked experiment to what a run is made of: parts, process settings, record, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from dlrun.build import check
from dlrun.config import compose
from dlrun.data import Examples, Splits
from dlrun.errors import ConfigError, DivergedError, MemoryExhaustedError, StorageError
from dlrun.identity import config_text, hyperparameters
from dlrun.loading import limit_parts, make_batches
from dlrun.run import train
from dlrun.session import open_session, prepare_process, recorded
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.checkpoint import Checkpoints
from dlrun.training.signals import StopFlag
from quiet import SHORT, Quiet, train_short
from tiny import FACTS, AsIs


@pytest.fixture(autouse=True)
def _process_settings_come_back() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.is_anomaly_enabled()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_num_threads(before[1])
    torch.autograd.set_detect_anomaly(before[2])


def splits(train: int = 10, val: int = 4, test: int = 0) -> Splits:
    def part(count: int) -> Examples:
        return Examples(torch.arange(3.0 * count).reshape(count, 3), torch.arange(float(count))[:, None])

    return Splits(FACTS, part(train), part(val), part(test), AsIs(), "print")


def test_limits_choose_the_same_examples_each_time() -> None:
    first, second = (limit_parts(splits(), {"train": 4, "val": 0.5, "test": None}) for _ in range(2))
    assert first.facts.sizes == {"train": 4, "val": 2, "test": 0}
    assert isinstance(first.train, Examples)
    assert isinstance(second.train, Examples)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.train.inputs[:, 0], 3 * first.train.targets[:, 0]), "inputs and targets stay together"
    assert len(set(first.train.targets.flatten().tolist())) == 4


def test_a_limit_above_the_size_changes_nothing() -> None:
    whole = splits()
    left = limit_parts(whole, {"train": 99, "val": 1.0})
    assert left.train is whole.train
    assert left.val is whole.val


def test_a_streamed_part_is_limited_without_reading_it() -> None:
    class Fails(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            raise AssertionError("an example was read")

    part = Fails(torch.zeros(10, 3))
    left = limit_parts(Splits(FACTS, part, splits().val, splits().test, AsIs(), "p"), {"train": 3})  # type: ignore[arg-type]
    assert len(left.train) == 3  # type: ignore[arg-type]


def test_batches_of_the_parts() -> None:
    experiment = check(compose(["data=diabetes", "trainer.batch_size=4"]))
    train, val, test = (make_batches(experiment, splits(), name) for name in ("train", "val", "test"))
    assert train is not None
    assert val is not None
    assert [len(x) for x, _ in train.epoch(0)] == [4, 4, 2]
    assert [len(x) for x, _ in val.in_order()] == [4]
    assert test is None, "an empty part has no batches"


def test_the_process_is_prepared() -> None:
    prepare_process(check(compose(["trainer.threads=1"])))
    assert torch.are_deterministic_algorithms_enabled() == (not torch.cuda.is_available())
    assert not torch.is_anomaly_enabled()
    prepare_process(check(compose(["trainer.deterministic=false", "trainer.detect_anomaly=true"])))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_anomaly_enabled()


def test_the_weights_come_from_the_seed_alone(tmp_path: Path) -> None:
    def weights(*overrides: str) -> torch.Tensor:
        torch.rand(7)
        experiment = check(compose([*SHORT, *overrides]))
        run = RunDirectory.create(tmp_path, "a")
        session = open_session(experiment, run, Quiet(), StopFlag())
        return next(session.trainer.model.parameters()).detach().clone()

    assert torch.equal(weights(), weights())
    assert torch.equal(weights(), weights("optimizer=sgd", "data.val=0", "trainer.batch_size=7"))
    assert not torch.equal(weights(), weights("trainer.seed=1"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DivergedError("nan"), "diverged", 6),
        (StorageError("full"), "failed", 7),
        (KeyboardInterrupt(), "interrupted", 130),
        (ZeroDivisionError("a bug"), "failed", 1),
    ],
)
def test_a_run_that_fails_says_how(error: BaseException, status: str, code: int, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a")
    run.lock()
    run.write_record(status="running")
    with pytest.raises(type(error)), recorded(run):
        raise error
    record = run.record()
    assert (record["status"], record["exit_code"]) == (status, code)
    assert record["error"].startswith(type(error).__name__)
    RunDirectory.open(run.path).lock()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_full_memory_has_a_remedy(error: BaseException, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a")
    with pytest.raises(MemoryExhaustedError, match=r"trainer\.accumulate=4"), recorded(run):
        raise error
    assert run.record()["exit_code"] == 8


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path, "a")

    def full(**changes: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(run, "write_record", full)
    with pytest.raises(DivergedError, match="nan"), recorded(run):
        raise DivergedError("nan")


def test_hyperparameters_are_flat() -> None:
    flat = hyperparameters(check(compose(["model=cnn", "optimizer.lr=0.5"])))
    assert flat["model"] == "cnn"
    assert flat["optimizer.lr"] == 0.5
    assert flat["optimizer.betas"] == "[0.9, 0.999]"
    assert not [name for name in flat if "_target_" in name]


def test_the_configuration_is_stored_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNING_RATE", "0.25")
    experiment = check(compose(["optimizer.lr='${oc.decode:${oc.env:LEARNING_RATE}}'"]))
    assert experiment.node["optimizer"]["lr"] == 0.25
    assert "lr: ${oc.decode:${oc.env:LEARNING_RATE}}" in config_text(experiment)


CANARY = "canary-7f3a9b2c51"


def test_a_secret_of_the_environment_reaches_no_file_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", CANARY)
    overrides = ["+tracking.token=${oc.env:API_TOKEN}", "+tracking.again=${oc.env:API_TOKEN}"]
    outcome = train_short(tmp_path, *overrides, "trainer.steps=4", "trainer.checkpoint_every=2")
    assert "${oc.env:API_TOKEN}" in (outcome.path / "config.yaml").read_text()
    assert json.loads((outcome.path / "run.json").read_text())["status"] == "done"
    files = [path for path in outcome.path.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path.name for path in files if CANARY.encode() in path.read_bytes()]


def test_a_network_starts_with_the_layers_of_another_run(tmp_path: Path) -> None:
    machine = ["model=rbm", "model.hidden=16", "trainer.steps=20", "task.ais_steps=50", "tracking=minimal"]
    learnt = train(compose(machine), root=tmp_path / "rbm", command=["dlrun"], reporter=Quiet())
    reporter = Quiet()
    words = ["data.pixels=unit", "trainer.steps=1", "optimizer.lr=1e-12", f"trainer.init_from={learnt.path}"]
    started = train_short(tmp_path / "mlp", *words, reporter=reporter)
    weights = [_weights(path) for path in (learnt.path, started.path)]
    torch.testing.assert_close(weights[1]["hidden.0.weight"], weights[0]["weight"], rtol=0, atol=1e-6)
    assert any("hidden.0" in note for note in reporter.notes)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    state = Checkpoints(path / "checkpoints").best()
    assert state is not None
    weights: dict[str, torch.Tensor] = state["model"]
    return weights


def test_layers_of_what_is_no_run_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        train_short(tmp_path / "runs", "trainer.init_from=/nowhere")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_would_end_in_its_pretraining_is_refused(tmp_path: Path) -> None:
    words = ["model=dbm", "trainer.steps=100", "algorithm.steps_per_layer=50", "tracking=minimal"]
    with pytest.raises(ConfigError, match=r"smaller algorithm\.steps_per_layer"):
        train(compose(words), root=tmp_path, command=["dlrun"], reporter=Quiet())


def test_evaluation_batches_are_bounded_by_what_they_give_and_long_where_a_state_is_carried() -> None:
    words = ["data=text", "model=lstm", "data.context=64"]
    plain, carried = (check(compose([*words, *more])) for more in ([], ["algorithm=truncated_backpropagation"]))
    splits = plain.data.load()
    for experiment, size in ((plain, 500), (carried, 64)):
        batches = make_batches(experiment, splits, "val")
        assert batches is not None
        assert batches.batch_size == min(size, batches.size)


def test_sampling_from_nan_is_a_divergence(tmp_path: Path) -> None:
    words = ["model=rbm", "data.pixels=standard", "model.visible=gaussian", "model.hidden=8", "optimizer.lr=1e30"]
    with pytest.raises(DivergedError):
        train(compose([*words, "trainer.steps=50", "tracking=minimal"]), root=tmp_path, command=[""], reporter=Quiet())

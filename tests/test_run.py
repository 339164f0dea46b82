"""The recipes, end to end on small real data: what a run leaves, and that the same seed gives the same bits."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dlrun.errors import ConfigError, DataError, DivergedError
from dlrun.predict import predict
from dlrun.resume import resume
from dlrun.trained import evaluate
from dlrun.training.checkpoint import Checkpoints, read
from dlrun.training.trainer import Trainer
from quiet import Quiet, train_short


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def weights_hash(run: Path) -> str:
    """Hash of every weight of the newest checkpoint."""
    found = Checkpoints(run / "checkpoints").newest()
    assert found is not None
    digest = hashlib.sha256()
    for name, tensor in sorted(found[0]["model"].items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_a_run_leaves_everything_a_run_should_leave(tmp_path: Path) -> None:
    reporter = Quiet()
    outcome = train_short(tmp_path, "tracking=tensorboard", "tracking.every=10", reporter=reporter)
    record = json.loads((outcome.path / "run.json").read_text())
    assert outcome.status == record["status"] == "done"
    assert record["steps"] == 40
    assert record["data"]["sizes"]["train"] > 1000
    assert record["metrics"]["test/accuracy"] == outcome.metrics["test/accuracy"]
    assert record["best"]["metric"] == "val/accuracy"
    assert {"commit", "dirty"} <= set(record["git"])
    for name in ("config.yaml", "history.jsonl", "checkpoints/best.ckpt", "checkpoints/step-00000040.ckpt"):
        assert (outcome.path / name).is_file(), name
    assert list((outcome.path / "tensorboard").glob("events*"))
    steps = [row["step"] for row in rows(outcome.path)]
    assert steps == sorted(steps)
    assert steps[0] == 0, "the untrained network is evaluated"
    logged = [row for row in rows(outcome.path) if "train/loss" in row]
    assert [row["step"] for row in logged] == [10, 20, 30, 40]
    assert {"rate", "gradient_norm", "examples_per_second"} <= set(logged[0])
    assert reporter.closings[0]["baseline"]["test/accuracy"] == pytest.approx(0.1, abs=0.03)


def test_a_network_learns_the_digits(tmp_path: Path) -> None:
    outcome = train_short(tmp_path, "model.hidden=[64]", "trainer.steps=400", "trainer.evaluate_steps=200")
    assert outcome.metrics["test/accuracy"] > 0.92  # 0.95 is usual; chance is 0.10


def test_same_seed_same_bits_and_another_seed_other_bits(tmp_path: Path) -> None:
    first, second = train_short(tmp_path), train_short(tmp_path)
    other = train_short(tmp_path, "trainer.seed=1")
    assert weights_hash(first.path) == weights_hash(second.path)
    assert weights_hash(first.path) != weights_hash(other.path)
    assert first.metrics == second.metrics


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=momentum", "schedule=cosine", "schedule.warmup=0.2"],
        ["optimizer=gd", "trainer.ema=0.9"],
        ["optimizer=lbfgs", "trainer.steps=4", "trainer.evaluate_steps=2"],
        ["trainer.accumulate=4", "trainer.clip_norm=1", "trainer.clip_value=0.1"],
        ["model=cnn", "model.hidden=[16]", "model.channels=[4,8]", "model.batch_norm=true", "model.dropout=0.2"],
        ["precision=bf16"],
        ["precision=fp16"],
        ["schedule=plateau", "trainer.evaluate_every=1", "trainer.evaluate_steps=null"],
        ["data=diabetes", "loss=huber"],
        ["data=breast_cancer", "task=classification", "task.outputs=2"],
        ["data=breast_cancer", "loss=hinge", "loss.class_weights=balanced"],
        ["data.val=0"],
        ["trainer.limit.train=200", "trainer.limit.val=0.5"],
        ["data=wine", "trainer.batch_size=10", "model.hidden=[10]"],  # batches of an odd number of bytes
    ],
    ids=lambda overrides: ",".join(overrides),
)  # fmt: skip
def test_resuming_half_way_ends_in_the_same_bits(tmp_path: Path, overrides: list[str]) -> None:
    """A run that ends at half its length and is extended must equal one that went through."""
    settings = ["trainer.checkpoint_every=1", *overrides]
    whole = train_short(tmp_path, *settings)
    total = json.loads((whole.path / "run.json").read_text())["steps"]
    half = _stopped_at(tmp_path, total // 2, settings)
    outcome = resume(half, overrides=[], reporter=Quiet())
    assert weights_hash(outcome.path) == weights_hash(whole.path)
    assert outcome.metrics == whole.metrics
    timeless = [[{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in rows(path)]
                for path in (outcome.path, whole.path)]  # fmt: skip
    assert timeless[0] == timeless[1]


LOSSES = {
    "updater": ["optimizer=adam"],
    "random": ["model.dropout=0.5"],
    "average": ["trainer.ema=0.9"],
    "schedule": ["schedule=plateau", "schedule.patience=0", "schedule.threshold=0.9", "trainer.evaluate_steps=1"],
}


@pytest.mark.parametrize("part", LOSSES)
def test_the_comparison_sees_a_lost_part_of_the_state(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted faults: a checkpoint without one of its parts must end in other bits, or in other metrics."""
    settings = ["trainer.checkpoint_every=1", *LOSSES[part]]
    whole = train_short(tmp_path, *settings)
    half = _stopped_at(tmp_path, 25, settings)
    load = Trainer.load_state_dict

    def forgetful(self: Trainer, state: dict[str, Any], best: dict[str, Any] | None) -> None:
        load(self, state | {part: self.state_dict()[part]}, best)

    monkeypatch.setattr(Trainer, "load_state_dict", forgetful)
    outcome = resume(half, overrides=[], reporter=Quiet())
    assert weights_hash(outcome.path) != weights_hash(whole.path) or outcome.metrics != whole.metrics


def _stopped_at(root: Path, step: int, settings: list[str]) -> Path:
    """A run that a SIGTERM stops after ``step`` steps."""
    import os
    import signal

    class Stopper(Quiet):
        sent = False

        def progress(self, at: int, total: int | None, share: float, values: dict[str, float]) -> None:
            if at >= step and not self.sent:  # a second signal would end the process at once
                self.sent = True
                os.kill(os.getpid(), signal.SIGTERM)

    from dlrun.training.callbacks import Progress

    interval = Progress.__init__.__defaults__
    Progress.__init__.__defaults__ = (0.0,)  # report every step
    try:
        outcome = train_short(root, *settings, reporter=Stopper())
    finally:
        Progress.__init__.__defaults__ = interval
    assert outcome.status == "interrupted"
    assert outcome.exit_code == 143
    assert json.loads((outcome.path / "run.json").read_text())["steps"] < step + 2
    return outcome.path


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_network_learns_on_the_gpu_and_goes_on_after_a_stop(tmp_path: Path, precision: str) -> None:
    settings = [
        f"precision={precision}",
        "model=cnn",
        "model.hidden=[32]",
        "model.channels=[8,16]",
        "trainer.device=cuda",
    ]
    settings += ["trainer.deterministic=true", "trainer.steps=300", "trainer.checkpoint_every=10"]
    whole = train_short(tmp_path, *settings)
    assert whole.metrics["test/accuracy"] > 0.9
    outcome = resume(_stopped_at(tmp_path, 100, settings), overrides=[], reporter=Quiet())
    assert outcome.metrics == whole.metrics


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_images_that_stream_give_the_same_bits_with_any_workers_and_after_a_stop(tmp_path: Path) -> None:
    dice = random.Random(0)
    for name, colour in (("cats", (200, 60, 60)), ("dogs", (60, 60, 200))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            shade = tuple(value + dice.randrange(-50, 50) for value in colour)
            Image.new("RGB", (12, 10), shade).save(tmp_path / "photos" / name / f"{i}.png")
    folder = [f"data.root={tmp_path / 'photos'}", "data.size=12", "data.memory=0", "data.augment.flip=true"]
    settings = ["data=image_folder", *folder, "trainer.batch_size=8", "trainer.checkpoint_every=1", "trainer.steps=12"]
    settings += ["trainer.evaluate_steps=6", "optimizer.lr=0.01", "data.augment.crop=2"]
    whole = train_short(tmp_path, *settings, "trainer.workers=2")
    record = json.loads((whole.path / "run.json").read_text())
    assert record["placement"] == "streamed by 2 workers"
    assert whole.metrics["test/accuracy"] == 1.0
    alone = train_short(tmp_path, *settings, "trainer.workers=0")
    assert weights_hash(alone.path) == weights_hash(whole.path)
    outcome = resume(_stopped_at(tmp_path, 5, [*settings, "trainer.workers=2"]), overrides=[], reporter=Quiet())
    assert weights_hash(outcome.path) == weights_hash(whole.path)
    found = predict(outcome.path, [tmp_path / "photos" / "dogs"])
    assert {row["prediction"] for row in found.rows} == {"dogs"}


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    done = train_short(tmp_path)
    before = weights_hash(done.path)
    reporter = Quiet()
    again = resume(done.path, overrides=[], reporter=reporter)
    assert again.exit_code == 0
    assert "finished" in reporter.notes[0]
    assert weights_hash(done.path) == before


def test_a_finished_run_can_be_made_longer_but_not_another_experiment(tmp_path: Path) -> None:
    done = train_short(tmp_path)
    longer = resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet())
    assert json.loads((longer.path / "run.json").read_text())["steps"] == 60
    assert weights_hash(longer.path) == weights_hash(train_short(tmp_path, "trainer.steps=60").path)
    with pytest.raises(ConfigError, match=r"optimizer\.lr cannot change"):
        resume(done.path, overrides=["optimizer.lr=1"], reporter=Quiet())


def test_a_refused_resume_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    done = train_short(tmp_path)
    before = (done.path / "run.json").read_text()
    with pytest.raises(ConfigError, match=r"optimizer\.lr cannot change"):
        resume(done.path, overrides=["optimizer.lr=1"], reporter=Quiet())
    config = done.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.5"))
    with pytest.raises(ConfigError, match=r"optimizer\.lr 0\.5, but the run was trained with 0\.001"):
        resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet())
    config.write_text(config.read_text().replace("lr: 0.5", "lr: 0.001").replace("- 16", "- 17"))
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet())
    written = config.read_text().replace("- 17", "- 16")
    config.write_text(written.replace("torch.nn.ReLU", "torch.nn.GELU"))
    with pytest.raises(ConfigError, match=r"activation\._target_ torch\.nn\.GELU"):
        resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet())
    assert (done.path / "run.json").read_text() == before
    config.write_text(written)
    assert resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet()).status == "done", "and the lock is free"


def test_a_best_checkpoint_newer_than_the_state_is_not_taken_for_the_state_s_own(tmp_path: Path) -> None:
    settings = ["trainer.steps=60", "trainer.checkpoint_every=20", "trainer.evaluate_steps=10"]
    whole = train_short(tmp_path, *settings)
    (whole.path / "checkpoints" / "step-00000060.ckpt").unlink()
    reporter = Quiet()
    shorter = resume(whole.path, overrides=["trainer.steps=40"], reporter=reporter)
    assert any("the last one is tested" in warning for warning in reporter.warnings)
    afresh = train_short(tmp_path, *settings, "trainer.steps=40")
    assert weights_hash(shorter.path) == weights_hash(afresh.path)
    (afresh.path / "checkpoints" / "best.ckpt").unlink()
    assert "val/accuracy" not in shorter.metrics
    assert shorter.metrics["test/loss"] == evaluate(afresh.path, reporter=Quiet())["test/loss"]


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_lost_best_checkpoint_is_chosen_anew(tmp_path: Path, damage: str) -> None:
    done = train_short(tmp_path, "optimizer.lr=1e-30")  # nothing is learnt, so the untrained network stays the best
    best = done.path / "checkpoints" / "best.ckpt"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(bytes(content)) if damage == "flipped" else best.unlink()
    outcome = resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet())
    assert json.loads((outcome.path / "run.json").read_text())["best"]["step"] > 40
    assert "val/accuracy" in outcome.metrics
    assert evaluate(outcome.path, reporter=Quiet())["test/loss"] == outcome.metrics["test/loss"]


@pytest.mark.parametrize("overrides", [["trainer.batch_size=431"], ["trainer.accumulate=64"]])
def test_a_last_batch_of_one_joins_the_one_before(tmp_path: Path, overrides: list[str]) -> None:
    """1,294 training examples leave one after three batches of 431; batch normalisation cannot train on it."""
    outcome = train_short(tmp_path, "model.batch_norm=true", "trainer.steps=6", *overrides)
    assert outcome.status == "done"


def test_resume_falls_back_when_the_newest_checkpoint_is_damaged(tmp_path: Path) -> None:
    done = train_short(tmp_path, "trainer.checkpoint_every=10")
    newest = done.path / "checkpoints" / "step-00000040.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1])
    reporter = Quiet()
    longer = resume(done.path, overrides=["trainer.steps=60"], reporter=reporter)
    assert any("step-00000040" in warning for warning in reporter.warnings)
    assert any("step 30" in note for note in reporter.notes)
    assert weights_hash(longer.path) == weights_hash(train_short(tmp_path, "trainer.steps=60").path)


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b,y\n" + "\n".join(f"{i % 7},{i % 5},{i % 3 * 1.5 + i / 100}" for i in range(200)))
    done = train_short(tmp_path, "data=csv", f"data.path={table}")
    table.write_text(table.read_text().replace("6,", "5,"))
    with pytest.raises(DataError, match="fingerprint"):
        resume(done.path, overrides=["trainer.steps=60"], reporter=Quiet())


def test_nan_stops_with_the_step_and_never_becomes_best_or_last(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"at step [0-9]+"):
        train_short(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "trainer.checkpoint_every=5", "data=diabetes")
    (run,) = tmp_path.glob("*/*")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "diverged"
    assert record["exit_code"] == 6
    for path in (run / "checkpoints").glob("*.ckpt"):
        assert all(bool(tensor.isfinite().all()) for tensor in read(path)["model"].values()), path.name


def test_early_stopping_is_not_passed_by_on_resume(tmp_path: Path) -> None:
    settings = ["optimizer=sgd", "optimizer.lr=1e-9", "trainer.evaluate_steps=1", "trainer.early_stop=3"]
    done = train_short(tmp_path, *settings)
    steps = json.loads((done.path / "run.json").read_text())["steps"]
    again = resume(done.path, overrides=["trainer.steps=50"], reporter=Quiet())
    assert json.loads((again.path / "run.json").read_text())["steps"] == steps


def test_no_secret_of_the_environment_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a-secret-place-9f3k"
    folder.mkdir()
    (folder / "t.csv").write_text("a,b,y\n" + "\n".join(f"{i % 7},{i % 5},{i % 3 * 1.5 + i / 100}" for i in range(200)))
    monkeypatch.setenv("SECRET_FOLDER", str(folder))
    monkeypatch.chdir(tmp_path)  # outside dlrun's own repository, whose diff may hold this very test
    settings = ["tracking=tensorboard", "data=csv", "data.path='${oc.env:SECRET_FOLDER}/t.csv'"]
    done = train_short(tmp_path / "runs", *settings)
    files = [path for path in done.path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path.name for path in files if b"a-secret-place" in path.read_bytes()] == []
    assert b"${oc.env:SECRET_FOLDER}" in (done.path / "config.yaml").read_bytes()
    monkeypatch.delenv("SECRET_FOLDER")
    assert len(predict(done.path, [folder / "t.csv"]).rows) == 200


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    settings = ["optimizer=sgd", "optimizer.lr=1e-9", "trainer.evaluate_steps=1", "trainer.early_stop=3"]
    outcome = train_short(tmp_path, *settings)
    record = json.loads((outcome.path / "run.json").read_text())
    assert record["ended_by"] == "early stop"
    assert record["steps"] < 40


def test_a_time_budget_ends_the_run(tmp_path: Path) -> None:
    settings = ["trainer.steps=null", "trainer.epochs=null", "trainer.budget=0.2s", "schedule=cosine"]
    outcome = train_short(tmp_path, *settings)
    record = json.loads((outcome.path / "run.json").read_text())
    assert record["ended_by"] == "budget"
    assert record["seconds"] >= 0.2


def test_evaluate_gives_the_run_s_own_test_metrics(tmp_path: Path) -> None:
    done = train_short(tmp_path)
    found = evaluate(done.path, split="test", reporter=Quiet())
    assert found == {name: value for name, value in done.metrics.items() if name.startswith("test/")}
    assert set(evaluate(done.path, split="train", reporter=Quiet())) == {"train/loss", "train/accuracy", "train/f1"}
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        evaluate(done.path, split="tset", reporter=Quiet())


def test_predict_reads_a_table_and_writes_a_csv(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        "size,colour,kind\n"
        + "\n".join(f"{i % 9},{'red' if i % 2 else 'blue'},{'a' if i % 9 > 4 else 'b'}" for i in range(300))
    )
    done = train_short(tmp_path, "data=csv", f"data.path={table}", "trainer.steps=300", "optimizer.lr=0.01")
    unseen = tmp_path / "unseen.csv"
    unseen.write_text("colour,size\ngreen,8\nred,0\n")
    found = predict(done.path, [unseen])
    assert [row["prediction"] for row in found.rows] == ["a", "b"]
    assert found.path.read_text().splitlines()[0] == "input,prediction,p(a),p(b)"
    assert float(found.rows[0]["p(a)"]) == pytest.approx(1 - float(found.rows[0]["p(b)"]), abs=1e-5)


def test_regression_predicts_in_the_data_s_own_units(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("x,y\n" + "\n".join(f"{i / 10},{1000 + 50 * i / 10}" for i in range(300)))
    done = train_short(tmp_path, "data=csv", f"data.path={table}", "optimizer.lr=0.01", "trainer.steps=400")
    assert done.metrics["test/r2"] > 0.999
    asked = tmp_path / "asked.csv"
    asked.write_text("x\n10\n")
    (row,) = predict(done.path, [asked]).rows
    assert float(row["y"]) == pytest.approx(1500, abs=20)


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    whole, pieces = train_short(tmp_path), train_short(tmp_path, "trainer.accumulate=4")
    a, b = (read(path / "checkpoints" / "step-00000040.ckpt")["model"] for path in (whole.path, pieces.path))
    for name in a:
        # 40 Adam steps on sums taken in another order: float32 rounding, amplified by Adam's division.
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)

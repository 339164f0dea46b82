"""A run on two CPU processes: the same curve as on one, one directory, one voice, and an end that all share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dlrun.training.checkpoint import Checkpoints
from two_processes import LIMIT, curve, descendants, dlrun, free_port, last, record, runs, started, words

CLOSE = 2e-5  # relative: what float32 rounding adds up to in twenty steps of these runs
TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
RNN = ["data=text", "data.path=text.txt", "data.context=8", "model=rnn", "model.hidden=8", "model.embedding=4"]
RNN += ["algorithm=truncated_backpropagation"]
CHAINS = ["data=digits", "model=rbm", "model.hidden=8", "algorithm.persistent=true", "trainer.limit.train=64"]
CHAINS += ["trainer.limit.val=8", "trainer.limit.test=8", "trainer.evaluate_steps=100"]
BITS = {"ddp": ["model.dropout=0.3"], "fsdp": ["model.dropout=0.3", "engine=fsdp"], "text": RNN, "chains": CHAINS}
OTHERS = {
    "gan": ["data=digits", "model=gan"],
    "layerwise": ["data=digits", "model=dbn", "model.hidden=[8,8]", "algorithm.steps_per_layer=2"],
    "batch norm": ["data=digits", "model=cnn", "model.batch_norm=true"],
    "ema": ["trainer.ema=0.9"],
}
CHOICES = {
    "backpropagation": ["optimizer=sgd", "trainer.clip_norm=0.5"],
    "accumulation": ["trainer.accumulate=2", "trainer.batch_size=18"],
    "fsdp": ["engine=fsdp", "trainer.clip_norm=0.5"],
}


@pytest.fixture(autouse=True)
def _text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)


@pytest.mark.parametrize("choice", CHOICES)
def test_two_processes_follow_the_curve_of_one(choice: str, tmp_path: Path) -> None:
    own = CHOICES[choice]
    dlrun(*words("trainer.steps=20", *(w for w in own if w != "engine=fsdp")), folder=tmp_path)
    said = dlrun(*words("trainer.steps=20", *own), folder=tmp_path, processes=2)
    alone, together = runs(tmp_path)
    assert said.count("The best network") == 1
    assert len(curve(together)) == 20
    for name in ("train/loss", "val/loss", "gradient_norm"):
        expected, got = curve(alone, name), curve(together, name)
        assert [step for step, _ in got] == [step for step, _ in expected]
        assert [v for _, v in got] == pytest.approx([v for _, v in expected], rel=CLOSE, abs=1e-6), name
    ones, twos = (Checkpoints(run / "checkpoints").newest() for run in (alone, together))
    assert ones is not None
    assert twos is not None
    for name, weights in ones[0]["model"].items():
        torch.testing.assert_close(twos[0]["model"][name], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_checkpoint_of_two_goes_on_on_one_and_back(engine: str, tmp_path: Path) -> None:
    dlrun(*words("trainer.steps=30"), folder=tmp_path)
    straight = last(tmp_path)
    dlrun(*words("trainer.steps=10", f"engine={engine}"), folder=tmp_path, processes=2)
    run = last(tmp_path)
    dlrun("resume", str(run), "trainer.steps=20", "trainer.devices=1", folder=tmp_path)
    dlrun("resume", str(run), "trainer.steps=30", folder=tmp_path, processes=2)
    assert len(runs(tmp_path)) == 2
    assert [v for _, v in curve(run)] == pytest.approx([v for _, v in curve(straight)], rel=CLOSE)


@pytest.mark.parametrize("own", BITS.values(), ids=BITS)
def test_a_resumed_run_of_two_has_the_bits_it_would_have_had(own: list[str], tmp_path: Path) -> None:
    dlrun(*words("trainer.steps=20", *own), folder=tmp_path, processes=2)
    straight = last(tmp_path)
    dlrun(*words("trainer.steps=10", *own), folder=tmp_path, processes=2)
    run = last(tmp_path)
    dlrun("resume", str(run), "trainer.steps=20", folder=tmp_path, processes=2)
    name = "train/reconstruction" if own is CHAINS else "train/loss"
    assert len(curve(run, name)) == 20
    assert curve(run, name) == curve(straight, name)


def test_the_hidden_state_of_a_text_is_cut_by_process(tmp_path: Path) -> None:
    dlrun(*words("trainer.steps=12", *RNN), folder=tmp_path)
    dlrun(*words("trainer.steps=12", *RNN), folder=tmp_path, processes=2)
    alone, together = runs(tmp_path)
    assert [v for _, v in curve(together)] == pytest.approx([v for _, v in curve(alone)], rel=CLOSE)


@pytest.mark.parametrize("own", OTHERS.values(), ids=OTHERS)
def test_every_algorithm_goes_on_two(own: list[str], tmp_path: Path) -> None:
    dlrun(*words("trainer.steps=6", *own), folder=tmp_path, processes=2)
    assert record(last(tmp_path))["status"] == "done"


def test_shared_memory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = words("trainer.steps=5", "data=digits")
    dlrun(*own, folder=tmp_path, processes=2)
    monkeypatch.setattr("dlrun.distributed.memory.SHARED_FROM", 1)
    dlrun(*own, folder=tmp_path, processes=2)
    each, shared = runs(tmp_path)
    assert curve(shared) == curve(each)


def test_a_streamed_folder_is_read_in_parts(tmp_path: Path, family_files: dict[str, Path]) -> None:
    for name, label in (("images", "a"), ("more", "b")):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for path in family_files[name].glob("*.png"):
            (tmp_path / "pictures" / label / path.name).write_bytes(path.read_bytes())
    own = ["data=image_folder", "data.path=pictures", "data.memory=0", "trainer.batch_size=4", "trainer.workers=0"]
    dlrun(*words("trainer.steps=6", "optimizer=sgd", *own), folder=tmp_path)
    dlrun(*words("trainer.steps=6", "optimizer=sgd", *own), folder=tmp_path, processes=2)
    alone, together = runs(tmp_path)
    assert record(together)["placement"].startswith("streamed")
    assert [v for _, v in curve(together)] == pytest.approx([v for _, v in curve(alone)], rel=CLOSE)


def test_a_budget_ends_all_at_the_same_step(tmp_path: Path) -> None:
    dlrun(*words("trainer.epochs=null", "trainer.budget=2s"), folder=tmp_path, processes=2)
    assert record(last(tmp_path))["ended_by"] == "budget"


def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    said = dlrun(*words("modle=cnn"), folder=tmp_path, processes=2, code=2)
    assert said.count("error:") == 1


def test_torchrun_starts_a_run(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dlrun"]
    with started(*launcher, *words("trainer.steps=5"), folder=tmp_path) as process:
        text, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, text
    assert text.count("The best network") == 1
    assert len(runs(tmp_path)) == 1
    assert "devices: 2" in (last(tmp_path) / "config.yaml").read_text()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_goes_on_when_nobody_reads_what_it_says(devices: int, tmp_path: Path) -> None:
    with started("-m", "dlrun", *words("trainer.steps=5", f"trainer.devices={devices}"), folder=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()  # before the first word
        assert process.wait(LIMIT) == 0
    assert record(last(tmp_path))["status"] == "done"
    assert len(curve(last(tmp_path))) == 5


def test_slurm_starts_a_run(tmp_path: Path) -> None:
    port = str(free_port())
    variables = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": port}
    variables["SLURM_STEP_ID"] = "0"
    command = ["-m", "dlrun", *words("trainer.steps=5")]
    tasks = [variables | {"SLURM_PROCID": n, "SLURM_LOCALID": n} for n in "01"]
    with started(*command, folder=tmp_path, more=tasks[0]) as first:  # noqa: SIM117
        with started(*command, folder=tmp_path, more=tasks[1]) as second:
            said, silent = first.communicate(timeout=LIMIT)[0], second.communicate(timeout=LIMIT)[0]
            assert (first.returncode, second.returncode) == (0, 0), said + silent
    assert "The best network" in said
    assert silent == ""


LONG = ("trainer.steps=1000000", "trainer.devices=2", "trainer.evaluate_steps=1000000", "tracking.every=50")


def _training(folder: Path, pid: int) -> list[int]:
    """Wait until rows are written; the process numbers of the ranks."""
    ends = time.monotonic() + LIMIT
    while time.monotonic() < ends:
        found = runs(folder)
        if found and (found[0] / "history.jsonl").exists() and len(curve(found[0])) > 2:
            ranks = [child for child in descendants(pid) if "dlrun" in Path(f"/proc/{child}/cmdline").read_text()]
            assert len(ranks) == 2
            return ranks
        time.sleep(0.05)
    raise AssertionError("no step was taken")


@pytest.mark.parametrize(("rank", "who"), [(0, "process 1 of 2"), (1, "process 2 of 2")])
def test_a_killed_process_ends_all_within_ten_seconds(rank: int, who: str, tmp_path: Path) -> None:
    with started("-m", "dlrun", *words(*LONG), folder=tmp_path) as process:
        ranks = _training(tmp_path, process.pid)
        os.kill(ranks[rank], signal.SIGKILL)
        killed = time.monotonic()
        text, _ = process.communicate(timeout=LIMIT)
        assert time.monotonic() - killed < 10
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert process.returncode == 137, text
    assert text.count("error:") == 1
    assert f"error: {who}" in text
    assert "Traceback" not in text
    found = record(last(tmp_path))
    assert (found["status"], found["exit_code"]) == ("failed", 137)


@pytest.mark.parametrize("to", ["launcher", "second process"])
def test_a_signal_to_any_process_saves_once_and_ends_all(to: str, tmp_path: Path) -> None:
    with started("-m", "dlrun", *words(*LONG), folder=tmp_path) as process:
        ranks = _training(tmp_path, process.pid)
        os.kill(process.pid if to == "launcher" else ranks[1], signal.SIGTERM)
        text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 143, text
    assert text.count("stopped at step") == 1
    run = last(tmp_path)
    assert record(run)["status"] == "interrupted"
    steps = record(run)["steps"]
    assert (run / "checkpoints" / f"step-{steps:08d}.ckpt").exists()
    dlrun("resume", str(run), f"trainer.steps={steps + 5}", folder=tmp_path)
    assert record(run)["steps"] == steps + 5


def test_a_killed_launcher_leaves_no_orphan(tmp_path: Path) -> None:
    with started("-m", "dlrun", *words(*LONG), folder=tmp_path) as process:
        ranks = _training(tmp_path, process.pid)
        os.kill(process.pid, signal.SIGKILL)
        ends = time.monotonic() + LIMIT
        while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < ends:
            time.sleep(0.1)
        left = [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left
    assert record(last(tmp_path))["status"] == "interrupted"


REFUSED = [
    (["engine=fsdp", "model=gan", "data=digits"], ["algorithm=adversarial", "engine=ddp"]),
    (["engine=fsdp", "model=rbm", "data=digits"], ["algorithm=contrastive_divergence", "engine=ddp"]),
    (["optimizer=lbfgs", "algorithm=closure"], ["lbfgs", "trainer.devices=1"]),
    (["trainer.batch_size=1"], ["trainer.batch_size=1", "at least trainer.batch_size=2"]),
    (["engine=compile"], ["engine=compile", "use engine=ddp"]),
    (["engine=fsdp", "trainer.ema=0.9"], ["trainer.ema", "engine=ddp"]),
    (["engine=fsdp", "trainer.accumulate=2"], ["trainer.accumulate=2", "engine=ddp"]),
    (["engine=fsdp", "precision=fp16"], ["precision=bf16"]),
    (["engine=fsdp", "trainer.channels_last=true"], ["trainer.channels_last=true", "engine=ddp"]),
]


@pytest.mark.parametrize(("choices", "parts"), REFUSED)
def test_what_cannot_go_along_is_refused_before_anything_starts(choices: list[str], parts: list[str]) -> None:
    from dlrun.build import check
    from dlrun.config import compose
    from dlrun.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        check(compose(["data=iris", "trainer.devices=2", *choices]))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_weights_that_are_cut_lie_channel_after_channel() -> None:
    from dlrun.build import check
    from dlrun.config import compose

    network = ["model=cnn", "trainer.devices=2", "trainer.device=cpu"]
    assert check(compose([*network, "engine=ddp"])).channels_last
    assert not check(compose([*network, "engine=fsdp"])).channels_last


def test_a_run_that_nobody_starts_processes_for_is_refused(tmp_path: Path) -> None:
    from dlrun.config import compose
    from dlrun.errors import ConfigError
    from dlrun.run import train
    from dlrun.training.reporters import Silent

    config = compose(["data=iris", "trainer.devices=2"])
    with pytest.raises(ConfigError, match="only dlrun train and dlrun resume start several"):
        train(config, root=tmp_path, command=[], reporter=Silent())

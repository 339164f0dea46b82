"""When two experiments are the same: what enters the key and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dlrun.build import Experiment, check
from dlrun.config import compose
from dlrun.identity import experiment_key, identity
from dlrun.tracking.provenance import source_digest
from quiet import train_short


def experiment(*words: str, trusted: tuple[str, ...] = ()) -> Experiment:
    return check(compose(words), trusted)


def test_the_key_is_a_digest_that_does_not_depend_on_how_a_value_is_written() -> None:
    key = experiment_key(experiment())
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")
    assert key == experiment_key(experiment("optimizer.lr=1e-3"))
    assert key == experiment_key(experiment("model=mlp", "data=digits"))


@pytest.mark.parametrize(
    "word", ["trainer.workers=2", "trainer.threads=1", "trainer.checkpoint_every=5", "tracking=minimal"]
)
def test_what_cannot_change_results_does_not_count(word: str) -> None:
    assert experiment_key(experiment(word)) == experiment_key(experiment())


@pytest.mark.parametrize(
    "word", ["trainer.seed=1", "trainer.epochs=3", "precision=bf16", "engine=compile", "data.val=0.2", "loss=focal"]
)
def test_what_can_change_results_counts(word: str) -> None:
    assert experiment_key(experiment(word)) != experiment_key(experiment())


def test_torch_and_the_kind_of_device_count(monkeypatch: pytest.MonkeyPatch) -> None:
    here = experiment("trainer.device=cpu")
    key = experiment_key(here)
    here.device = torch.device("cuda", 1)
    elsewhere = experiment_key(here)
    assert elsewhere != key
    here.device = torch.device("cuda", 0)
    assert experiment_key(here) == elsewhere
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert experiment_key(here) != elsewhere


def test_the_checkpoints_of_the_run_that_this_one_starts_from_count(tmp_path: Path) -> None:
    source = train_short(tmp_path).path
    word = f"trainer.init_from={source}"
    key = experiment_key(experiment(word))
    assert experiment_key(experiment(word)) == key
    best = source / "checkpoints" / "best.ckpt"
    os.utime(best, ns=(0, 0))  # as when the run goes on
    assert experiment_key(experiment(word)) != key


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's, which imports another beside it."""
    (tmp_path / "net_for_its_identity.py").write_text(
        "import mylayers\n\nclass Net(mylayers.Base):\n"
        "    def __init__(self, in_features: int, out_features: int) -> None:\n"
        "        super().__init__(in_features, out_features)\n"
    )
    (tmp_path / "mylayers.py").write_text(
        "from torch import nn\n\nclass Base(nn.Module):\n"
        "    def __init__(self, i: int, o: int) -> None:\n"
        "        super().__init__()\n        self.layer = nn.Linear(i, o)\n"
        "    def forward(self, x):\n        return self.layer(x.flatten(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_trusted_code_counts_where_it_is_used(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest_now(package: str, **how: bool) -> str:  # without its memory, as in the next process
        return "dlrun's" if package == "dlrun" else source_digest.__wrapped__(package, **how)

    monkeypatch.setattr("dlrun.identity.source_digest", digest_now)
    word = "model._target_=net_for_its_identity.Net"
    used = experiment_key(experiment(word, trusted=("net_for_its_identity",)))
    unused = experiment_key(experiment(trusted=("net_for_its_identity",)))
    assert unused == experiment_key(experiment())
    (own_code / "mylayers.py").write_text((own_code / "mylayers.py").read_text() + "# edited\n")
    assert experiment_key(experiment(word, trusted=("net_for_its_identity",))) != used
    assert experiment_key(experiment(trusted=("net_for_its_identity",))) == unused


def test_the_identity_of_a_run_is_as_written() -> None:
    config = compose([])
    config.optimizer.lr = written = "${oc.decode:${oc.env:NO_SUCH_NAME,0.5}}"
    found = identity(check(config))
    assert found["optimizer.lr"] == written
    assert found["trainer.seed"] == "0"
    assert not any(key.startswith(("tracking", "choices")) for key in found)

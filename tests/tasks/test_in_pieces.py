"""A stop in the middle of a long measurement: it ends there, and the run goes on later as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlrun.config import compose
from dlrun.data.facts import Facts
from dlrun.models.rbm import RBM, RBMView
from dlrun.resume import resume
from dlrun.run import Outcome, train
from dlrun.tasks.annealed_importance import betas, exact_log_z
from dlrun.tasks.frechet import FrechetYardstick
from dlrun.tasks.in_pieces import looking, pieces
from dlrun.tasks.max_margin import MaxMargin
from dlrun.training.checkpoint import Checkpoints
from quiet import Quiet

RBM_RUN = [
    "model=rbm", "model.hidden=20", "task.ais_steps=200", "task.ais_chains=10",
    "tracking=minimal", "trainer.steps=40", "trainer.evaluate_steps=20",
]  # fmt: skip


class EnoughError(Exception):
    """Planted: whoever asked does not want to go on."""


class Looks:
    """Counts how often it was asked, and raises at one of the times."""

    def __init__(self, last: int | None = None) -> None:
        self.count, self.last = 0, last

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.last:
            raise EnoughError


def test_a_look_comes_before_each_piece_and_ends_the_work_there() -> None:
    done: list[int] = []
    with pytest.raises(EnoughError), looking(Looks(3)):
        done.extend(pieces(range(5)))
    assert done == [0, 1]


def test_outside_nobody_looks_and_the_inner_one_looks_alone() -> None:
    outer, inner = Looks(), Looks()
    assert list(pieces("ab")) == ["a", "b"]
    with looking(outer):
        list(pieces("abc"))
        with looking(inner):
            list(pieces("abcd"))
        list(pieces("a"))
    list(pieces("abcdef"))
    assert (outer.count, inner.count) == (4, 4)


def test_a_look_that_raises_is_forgotten_too() -> None:
    with pytest.raises(EnoughError), looking(Looks(1)):
        list(pieces("a"))
    assert list(pieces("a")) == ["a"]


def test_what_takes_long_is_done_in_pieces() -> None:
    """Counting a machine's states out, features of many samples, a pass over the training part after the test part."""
    looks = Looks()
    with looking(looks):
        exact_log_z(RBM((20,), 14).view())  # 2**14 states in chunks of 4,096
    assert looks.count == 4
    with looking(looks):
        FrechetYardstick(lambda x: x.flatten(1)).judge([(torch.zeros(3, 2), torch.zeros(3))], torch.randn(1001, 2))
    assert looks.count == 4 + 3

    inputs, targets = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
    task = MaxMargin(None, Facts("points", "points", (2,), "classification", classes=("a", "b")))
    task.fit(targets, lambda: zip(inputs.split(2), targets.split(2), strict=True))
    with looking(looks):
        task.measure(Plane(), [(inputs, targets)], "test")
    assert looks.count == 4 + 3 + 3


class Plane(nn.Linear):
    """A machine of two inputs."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def squared_norm(self) -> torch.Tensor:
        return self.weight.square().sum()


class Sampling:
    """Counts the temperatures of annealed importance sampling, and sends a signal at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.temperatures, self.at, self.number = 0, -1, signal.SIGTERM
        down = RBMView.down

        def counted(view: RBMView, states: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = down(view, states)
            if len(states) == 10:  # the chains; the data come in larger batches
                self.temperatures += 1
                if self.temperatures == self.at:
                    os.kill(os.getpid(), self.number)
            return found

        monkeypatch.setattr(RBMView, "down", counted)


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Sampling:
    return Sampling(monkeypatch)


def trained(root: Path) -> Outcome:
    return train(compose(RBM_RUN), root=root, command=["dlrun", "train"], reporter=Quiet())


def newest(run: Path) -> dict[str, Any]:
    found = Checkpoints(run / "checkpoints").newest()
    assert found is not None
    return found[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_in_the_middle_of_the_sampling_is_heeded_at_once_and_resume_ends_in_the_same_bits(
    tmp_path: Path, sampling: Sampling, number: signal.Signals, code: int
) -> None:
    whole = trained(tmp_path)
    total, sampling.temperatures = sampling.temperatures, 0
    assert total == len(betas(200)) - 1

    sampling.at, sampling.number = total // 2, number
    stopped = trained(tmp_path)
    assert sampling.temperatures == total // 2, "not one more after the signal"
    record = json.loads((stopped.path / "run.json").read_text())
    assert (stopped.status, stopped.exit_code) == ("interrupted", code)
    assert (record["status"], record["exit_code"], record["steps"]) == ("interrupted", code, 40)
    assert newest(stopped.path)["step"] == 40
    assert "test/log_likelihood" not in stopped.metrics

    sampling.at = -1
    resumed = resume(stopped.path, overrides=[], reporter=Quiet())
    assert (resumed.status, resumed.exit_code) == ("done", 0)
    assert resumed.metrics == whole.metrics
    assert "test/log_likelihood" in resumed.metrics
    ours, theirs = newest(resumed.path)["model"], newest(whole.path)["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlrun.build import Experiment, check
from dlrun.config import compose
from dlrun.errors import ConfigError
from dlrun.feature_classifier import provide_classifier
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.signals import StopFlag
from quiet import Quiet

FAST = ["trainer.limit={train: 200, val: 50, test: 50}", "trainer.threads=1", "task.classifier_steps=20"]


def experiment(*overrides: str) -> Experiment:
    return check(compose(["model=gan", "data=digits", "model.hidden=[8]", *FAST, *overrides]))


def provided(here: Experiment, run: RunDirectory) -> Quiet:
    reporter = Quiet()
    provide_classifier(here, run, reporter, StopFlag())
    return reporter


def features(here: Experiment) -> Any:
    return here.task.yardstick.features  # type: ignore[attr-defined]


def test_it_is_trained_once_in_the_runs_own_directory(tmp_path: Path) -> None:
    run, here, again = RunDirectory.create(tmp_path, "gan"), experiment(), experiment("trainer.seed=3")
    assert "right about" in provided(here, run).notes[-1]
    (made,) = (run.path / "classifier").glob("*/*/run.json")
    assert len(provided(again, run).notes) == 1  # taken from there: nothing is trained
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    assert features(here)(images).shape == (5, 64)
    assert torch.equal(features(here)(images), features(again)(images))
    assert list((run.path / "classifier").glob("*/*/run.json")) == [made]


def test_it_is_the_same_in_every_run_and_for_every_seed(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        here = experiment(f"trainer.seed={seed}")
        torch.manual_seed(seed)  # whatever was drawn before
        provided(here, RunDirectory.create(tmp_path, "gan"))
        found.append(features(here)(torch.linspace(-1, 1, 64).view(1, 1, 8, 8)))
    assert torch.equal(*found)


def test_generated_pixels_reach_it_in_the_range_it_was_trained_on(tmp_path: Path) -> None:
    """The same pictures as the generator sees them and as the classifier does give the same features."""
    here = experiment()
    provided(here, RunDirectory.create(tmp_path, "gan"))
    splits = here.data.load()
    raw = splits.test.inputs[:8]  # type: ignore[union-attr]
    symmetric = splits.preprocess(raw)
    assert symmetric.min() == -1
    classifier = features(here)
    seen = []
    handle = classifier.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    classifier(symmetric)
    handle.remove()
    torch.testing.assert_close(seen[0], classifier.preprocess(raw))


@pytest.mark.parametrize("status", ["crashed", "unreadable"])
def test_one_that_was_broken_off_is_finished_or_made_again(tmp_path: Path, status: str) -> None:
    run, here, again = RunDirectory.create(tmp_path, "gan"), experiment(), experiment()
    provided(here, run)
    (path,) = (run.path / "classifier").glob("*/*")
    if status == "crashed":
        RunDirectory(path).write_record(status="running")
    else:
        (path / "run.json").write_text("{")
    provided(again, run)
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    assert torch.equal(features(here)(images), features(again)(images))


def test_a_signal_during_its_training_reaches_the_run_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlrun import run as recipes

    stopped = recipes.Outcome(tmp_path, "interrupted", {}, 143)
    monkeypatch.setattr(recipes, "train", lambda *_, **__: stopped)
    stop = StopFlag()
    provide_classifier(experiment(), RunDirectory.create(tmp_path, "gan"), Quiet(), stop)
    assert stop.number == 15


def test_another_run_may_be_the_classifier_if_it_fits(tmp_path: Path) -> None:
    run, here = RunDirectory.create(tmp_path, "gan"), experiment()
    provided(here, run)
    (path,) = (run.path / "classifier").glob("*/*")
    given = experiment(f"task.classifier={path}")
    provided(given, RunDirectory.create(tmp_path, "gan"))
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    assert torch.equal(features(here)(images), features(given)(images))
    with pytest.raises(ConfigError, match="is not a run"):
        provided(experiment(f"task.classifier={tmp_path / 'none'}"), run)
    with pytest.raises(ConfigError, match="not of classification"):
        provided(experiment(f"task.classifier={run.path}"), run)


@pytest.mark.parametrize("overrides", [["task.classifier=null"], ["data=ring", "model=gan"]])
def test_nothing_is_trained_where_none_is_wanted(overrides: list[str], tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "gan")
    here = check(compose(["model=gan", "data=digits", *overrides]))
    assert provided(here, run).notes == []
    provided(check(compose([])), run)
    assert not (run.path / "classifier").exists()


def test_pixels_of_another_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.pixels=unit"):
        provided(experiment("data.pixels=unit"), RunDirectory.create(tmp_path, "gan"))

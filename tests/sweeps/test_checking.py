"""All points are checked before the first trial starts, and the first mistake names its point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlrun.errors import ConfigError, DataError, DlrunError, RefusedError
from dlrun.sweeps.checking import Checked, check_points
from dlrun.sweeps.points import Composer
from dlrun.sweeps.space import read_space

SMALL = ["data=iris", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def check(composer: Composer, *words: str, metric: str = "auto") -> Checked:
    space = read_space([*SMALL, *words])
    points = composer.grid(space) if space.finite else composer.sample(space, 4)
    return check_points(composer, points, space.seeds, metric=metric)


def test_what_is_ranked_by(composer: Composer) -> None:
    checked = check(composer, "model=mlp,perceptron", "optimizer.lr=0.1,0.2", "seeds=3")
    assert (checked.metric, checked.higher_is_better) == ("val/accuracy", True)
    assert checked.first.settings.seed == 0
    assert checked.first.node["choices"]["model"] == "mlp"
    assert check(composer, "data=diabetes").metric == "val/mse"
    assert not check(composer, "data=diabetes").higher_is_better
    assert check(composer, "trainer.monitor=val/loss").metric == "val/loss"
    assert check(composer, metric="val/loss").metric == check(composer, metric="loss").metric == "val/loss"


def test_progress_counts_every_point_and_the_first_under_every_seed(composer: Composer) -> None:
    space = read_space([*SMALL, "optimizer.lr=0.1,0.2", "seeds=3"])
    told: list[tuple[int, int]] = []
    check_points(composer, composer.grid(space), space.seeds, progress=lambda *given: told.append(given))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        (["optimizer.lr=0.1,-1"], ConfigError, "point 1 (optimizer.lr=-1): optimizer: Invalid learning rate"),
        (["optimizer.lr=0.1,-1,-2,-3"], ConfigError, "(2 more of the 4 points that were checked are wrong)"),
        (["optimizer.lr=0.1,fast"], ConfigError, "point 1 (optimizer.lr=fast): optimizer.lr=fast: takes a number"),
        (["model=mlp,cnn"], ConfigError, "point 1 (model=cnn): model=cnn needs images"),
        (["model.hidden=[8],[0.5]"], ConfigError, "model.hidden=0.5: takes a whole number"),
        (["trainer.batch_size=8,100000"], ConfigError, "is more than the"),
        (["trainer.batch_size=interval(1,9)"], ConfigError, "write trainer.batch_size=int(interval(low,high))"),
        (["model._target_=os.system,subprocess.run"], RefusedError, "point 0 (model._target_=os.system): "),
        (["data=csv", "data.target=y", "data.path=absent.csv,none.csv"], DataError, "point 0 (data.path=absent.csv)"),
        (["data.val=0"], ConfigError, "a sweep ranks by the validation part, but nothing is held out; set data.val"),
    ],
)
def test_the_first_mistake_names_its_point(
    words: list[str], kind: type[DlrunError], sentence: str, composer: Composer
) -> None:
    with pytest.raises(kind, match=re.escape(sentence)) as caught:
        check(composer, *words)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("test/accuracy", "sweep.metric=test/accuracy: a sweep ranks by a metric of the validation part; did you mean"),
        ("val/acuracy", "did you mean 'val/accuracy'?"),
        ("mse", "sweep.metric=mse"),
    ],
)
def test_a_metric_that_is_not_there(metric: str, sentence: str, composer: Composer) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check(composer, metric=metric)


def test_different_tasks_go_with_a_metric_that_both_have(composer: Composer) -> None:
    space = read_space(["data=iris,diabetes", "trainer.device=cpu"])
    told = re.escape("val/accuracy (point 0) and val/mse (point 1): set sweep.metric")
    with pytest.raises(ConfigError, match=told):
        check_points(composer, composer.grid(space), (0,))
    assert check_points(composer, composer.grid(space), (0,), metric="val/loss").metric == "val/loss"


def test_nothing_is_left_behind(composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(composer, "optimizer.lr=0.1,0.2")
    assert not list(tmp_path.iterdir())

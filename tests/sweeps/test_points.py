"""The points of a space and their configs: exactly what ``dlrun train`` would compose, and none that does not exist."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dlrun.config import compose
from dlrun.errors import ConfigError
from dlrun.sweeps import points as module
from dlrun.sweeps.nouns import Axis, Point, Settings, Space
from dlrun.sweeps.points import Composer, planned
from dlrun.sweeps.space import draw, read_space


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def labels(points: list[Point]) -> list[str]:
    return [point.label for point in points]


# composing

WORDS = [
    ["optimizer.lr=0.1,0.2", "model.hidden=[8,8],[]"],
    ["model=cnn,lstm", "model.dropout=0.5", "optimizer=momentum,adam", "optimizer.momentum=0.5"],
    ["trainer.limit={train: 5},{val: 6}", "trainer.limit.test=7"],
    ["+trainer.more=1", "++trainer.steps=3,null", "+data.extra={a: 1},{b: [2]}"],
    ["~trainer.budget", "experiment=spiral,vit_digits"],
    ["~schedule.warmup", "schedule=cosine,constant"],
    ["~debug", "debug=limit"],
    ["data.seed=${trainer.seed},5", "optimizer.lr=${oc.env:NOT_SET},0.1"],
    ["model._target_=torchvision.models.resnet18,torchvision.models.vgg11", "+model.num_classes=10"],
    ["data=csv", "data.path='a b.csv',\"c,d.csv\",e@f.csv"],
    ["experiment=spiral,vit_digits", "model.dropout=0.1,0.2", "debug=overfit"],
    ["model.batch_norm=true", "trainer.monitor=auto,val/loss", "trainer.clip_norm=null,1"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_config_is_what_dlrun_train_composes(words: list[str], composer: Composer) -> None:
    def composed(make: object) -> str:
        try:
            return OmegaConf.to_yaml(make())  # type: ignore[operator]
        except ConfigError as error:
            return str(error)

    points = composer.grid(read_space(words))
    assert points
    for seed, point in enumerate(points):
        alone = composed(lambda point=point, seed=seed: compose([*point.overrides, f"trainer.seed={seed}"]))
        assert composed(lambda point=point, seed=seed: composer.config(point, seed)) == alone
        assert f"seed: {seed}" in alone or "cannot be composed" in alone


def test_a_config_belongs_to_its_caller(composer: Composer) -> None:
    point = Point({}, ("model=mlp",))
    mine = composer.config(point, 0)
    mine.model.hidden.append(7)
    mine.choices.model = "changed"
    OmegaConf.set_struct(mine, False)
    mine.optimizer.more = 1
    again = composer.config(point, 1)
    assert again.model.hidden == [128, 64]
    assert again.choices.model == "mlp"
    assert "more" not in again.optimizer


def test_hydra_composes_once_for_each_set_of_options(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Composer()
    composed: list[object] = []
    original = module.pick
    monkeypatch.setattr(module, "pick", lambda *given: composed.append(given) or original(*given))
    monkeypatch.setattr(module, "REMEMBERED", 10)  # words are forgotten on the way
    points = fresh.grid(read_space(["model=cnn,mlp", "optimizer.lr=range(0.001,0.021,step=0.001)"]))
    assert [fresh.config(point, 0).optimizer.lr for point in points[:20]] == [i / 1000 for i in range(1, 21)]
    assert [fresh.config(point, 0).choices.model for point in points] == ["cnn"] * 20 + ["mlp"] * 20
    assert len(composed) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("optimizer.lr=fast",), "optimizer.lr=fast: takes a number"),
        (("optimizer.lrr=1",), "did you mean 'lr'"),
        (("optimizer=adm",), "did you mean 'adam'"),
        (("optimizer.lr=1,2",), "names several values"),
        (("choices.model=cnn",), "choices.model: this is what was picked"),
        (("+choices.x=cnn",), "this is what was picked"),
    ],
)
def test_a_mistake_is_said_as_dlrun_train_says_it(overrides: tuple[str, ...], words: str, composer: Composer) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        composer.config(Point({}, overrides), 0)
    with pytest.raises(ConfigError, match=re.escape(str(caught.value))):
        compose([*overrides, "trainer.seed=0"])


# grids


def test_the_last_axis_changes_fastest(composer: Composer) -> None:
    points = composer.grid(read_space(["optimizer=adam,sgd", "optimizer.lr=0.1,0.2", "model.hidden=[8]", "data=iris"]))
    assert [point.overrides for point in points] == [
        ("model.hidden=[8]", "data=iris", f"optimizer={name}", f"optimizer.lr={rate}")
        for name in ("adam", "sgd")
        for rate in ("0.1", "0.2")
    ]
    assert points[1].values == {"optimizer": "adam", "optimizer.lr": "0.2"}


def test_no_axis_is_one_point(composer: Composer) -> None:
    assert composer.grid(Space((), ())) == [Point({}, ())]
    assert labels(composer.grid(read_space(["optimizer.lr=0.1"]))) == ["as composed"]


def test_a_key_counts_only_where_it_exists(composer: Composer) -> None:
    words = ["model=perceptron,mlp", "model.hidden=[8],[16]", "optimizer=adam,momentum", "optimizer.momentum=0.5,0.9"]
    assert labels(composer.grid(read_space(words))) == [
        "model=perceptron optimizer=adam",
        "model=perceptron optimizer=momentum optimizer.momentum=0.5",
        "model=perceptron optimizer=momentum optimizer.momentum=0.9",
        "model=mlp optimizer=adam model.hidden=[8]",
        "model=mlp optimizer=adam model.hidden=[16]",
        *(
            f"model=mlp optimizer=momentum model.hidden=[{h}] optimizer.momentum={m}"
            for h in (8, 16)
            for m in (0.5, 0.9)
        ),
    ]


def test_a_fixed_key_is_left_out_where_it_does_not_exist(composer: Composer) -> None:
    points = composer.grid(read_space(["model=perceptron,mlp", "model.hidden=[8]", "+model.more=1"]))
    assert [point.overrides for point in points] == [
        ("+model.more=1", "model=perceptron"),
        ("model.hidden=[8]", "+model.more=1", "model=mlp"),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizer.lrr=1,2"], "optimizer.lrr: 'optimizer' has no key 'lrr'; did you mean 'lr'?"),
        (
            ["model=cnn,mlp", "model.hiden=[8]"],
            "did you mean 'hidden'? (dlrun show prints every key; +model.hiden=",
        ),
        (["model=cnn,mlp", "model.hiden=[8],[9]"], "nor is it there under any other model of this sweep"),
        (["model=cnn,mlp", "optimizer=adam,sgd", "x=1"], "nor is it there under any other model and optimizer"),
        (["modle=cnn,mlp"], "modle: there is no group or key 'modle'; did you mean 'model'?"),
        (["model=cnn,mlpp"], "model=mlpp: the group 'model' has no 'mlpp'; did you mean 'mlp'?"),
        (["~optimizer.lrr", "model=cnn,mlp"], "'optimizer' has no key 'lrr'"),
    ],
)
def test_a_key_that_no_point_has(words: list[str], sentence: str, composer: Composer) -> None:
    space = read_space(words)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        composer.grid(space)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        composer.sample(space, 4)


def test_a_grid_of_intervals_or_of_too_many_points(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no end of points"):
        composer.grid(read_space(["optimizer.lr=interval(0.1,0.2)"]))
    monkeypatch.setattr(module, "MOST_POINTS", 7)
    assert len(composer.grid(read_space(["model=cnn,mlp", "optimizer.lr=0.1,0.2,0.3"]))) == 6
    for words in (["optimizer.lr=range(8)"], ["model=cnn,mlp", "optimizer.lr=1,2,3,4"], ["activation=glob(*)"]):
        with pytest.raises(ConfigError, match="more than 7 points; draw some of them: sweep=random"):
            composer.grid(read_space(words))


def test_how_many_points_are_planned(composer: Composer) -> None:
    space = read_space(["model=perceptron,mlp", "model.hidden=[8],[16]"])
    assert planned(composer, space, Settings()) == 3
    assert planned(composer, space, Settings(points=2)) == 2
    assert planned(composer, space, Settings(sampler="random")) == 3
    assert planned(composer, space, Settings(sampler="random", points=4)) == 3
    endless = read_space(["optimizer.lr=interval(0.1,0.2)"])
    assert planned(composer, endless, Settings(sampler="tpe", points=30)) == 30


# points that a search chooses


def test_groups_are_chosen_first_and_then_what_exists(composer: Composer) -> None:
    space = read_space(["optimizer.momentum=interval(0,1)", "optimizer=adam,momentum", "model.hidden=[8],[16]"])
    asked: list[str] = []

    def choose(axis: Axis) -> str:
        asked.append(axis.key)
        return axis.values[-1] if axis.values else "0.25"

    assert composer.point(space, choose).overrides == (
        "optimizer=momentum",
        "optimizer.momentum=0.25",
        "model.hidden=[16]",
    )
    assert asked == ["optimizer", "optimizer.momentum", "model.hidden"]
    asked.clear()
    assert composer.point(space, lambda a: choose(a) and ("adam" if a.group else "[8]")).values == {
        "optimizer": "adam",
        "model.hidden": "[8]",
    }
    assert asked == ["optimizer", "model.hidden"]


def test_what_is_chosen_is_a_point_of_the_grid(composer: Composer) -> None:
    space = read_space(
        ["model=perceptron,mlp,cnn", "model.hidden=[8],[16]", "model.dropout=0.1,0.2", "trainer.steps=3"]
    )
    grid, source = composer.grid(space), random.Random(0)
    drawn = [composer.point(space, lambda axis: draw(axis, source)) for _ in range(200)]
    assert {point.overrides for point in drawn} == {point.overrides for point in grid}


def test_a_sample_has_every_option_every_value_and_both_ends(composer: Composer) -> None:
    words = [
        "model=perceptron,mlp",
        "model.hidden=[8],[16],[4]",
        "optimizer.lr=log(1e-4,1e-1)",
        "optimizer=adam,momentum",
    ]
    space = read_space([*words, "optimizer.momentum=interval(0,1)"])
    points = composer.sample(space, 40)
    assert len(points) == 40
    for model in ("perceptron", "mlp"):
        for optimizer in ("adam", "momentum"):
            here = [p.values for p in points if (p.values["model"], p.values["optimizer"]) == (model, optimizer)]
            assert {"0.0001", "0.1"} < {values["optimizer.lr"] for values in here}
            assert all(("model.hidden" in values) == (model == "mlp") for values in here)
            assert all(("optimizer.momentum" in values) == (optimizer == "momentum") for values in here)
    assert {p.values.get("model.hidden") for p in points} == {None, "[8]", "[16]", "[4]"}
    assert points == composer.sample(space, 40)
    assert points != composer.sample(space, 40, seed=1)
    assert len({point.overrides for point in points}) == 40


def test_a_sample_of_many_options_has_each_once(composer: Composer) -> None:
    space = read_space(["schedule=glob(*)", "loss=cross_entropy,focal", "optimizer.lr=interval(0.1,0.2)"])
    options = set(space.axes[0].values)
    points = composer.sample(space, 9)
    assert len(options) == 8
    assert {point.values["schedule"] for point in points} == options
    assert {point.values["loss"] for point in points} == {"cross_entropy", "focal"}
    assert len({(point.values["schedule"], point.values["loss"]) for point in points}) < 16


def test_the_user_s_folders_count(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine\n_target_: dlrun.models.mlp.MLP\nhidden: [3]\n")
    composer = Composer([tmp_path])
    points = composer.grid(read_space(["model=mine,mlp", "model.dropout=0.1,0.2"], [tmp_path]))
    assert labels(points) == ["model=mine", "model=mlp model.dropout=0.1", "model=mlp model.dropout=0.2"]
    assert composer.config(points[0], 0).model.hidden == [3]

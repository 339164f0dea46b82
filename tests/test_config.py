"""Composing and changing the configuration; every sentence that says what is wrong with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dlrun.config import change, completions, compose, config_dir, groups, load_config
from dlrun.errors import ConfigError
from dlrun.value_types import check_type

CHANGEABLE = ("trainer.steps", "trainer.budget", "tracking.")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_torch_is_not_imported() -> None:
    program = (
        "import sys\nfrom dlrun.config import *\ncompose(['model=cnn', 'optimizer.lr=0.1'])\ngroups()\n"
        "completions('model=')\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# compose


def test_the_defaults_and_the_choices() -> None:
    config = compose(["model=cnn", "optimizer.lr=0.5"])
    assert config.choices.model == "cnn"
    assert config.choices.optimizer == "adam"
    assert config.optimizer.lr == 0.5
    assert "hydra" not in config
    with pytest.raises(Exception, match="nothere"):
        _ = config.nothere


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["modle=cnn"],
            "modle: there is no group or key 'modle'; did you mean 'model'? (dlrun list shows every group)",
        ),
        (["model=cnnn"], "model=cnnn: the group 'model' has no 'cnnn'; did you mean 'cnn'? (dlrun list model)"),
        (["model=qqq"], "there are: autoencoder, cnn, conv_autoencoder"),
        (["model=null"], "model=null: leave a group out with '~model' instead"),
        (["optimizer.lrr=1"], "optimizer.lrr: 'optimizer' has no key 'lrr'; did you mean 'lr'? (dlrun show"),
        (["optimizer.lr.x=1"], "optimizer.lr.x: 'optimizer.lr' has no key 'x'"),
        (["trainer.limit.tran=1"], "'trainer.limit' has no key 'tran'; did you mean 'train'?"),
        (["~optimizer.lrr"], "'optimizer' has no key 'lrr'"),
        (["model"], "cannot read 'model'"),
        (["model=[cnn"], "cannot read 'model=[cnn'"),
        (["data.path=a(b"], "need quotes"),
        (["hydra.run.dir=x"], "keys under hydra are closed"),
        (["+hydra.searchpath=[x]"], "keys under hydra are closed"),
        (["hydra/launcher=basic"], "keys under hydra are closed"),
        (["++hydra.job.chdir=true"], "keys under hydra are closed"),
        (["~hydra"], "keys under hydra are closed"),
        (["optimizer.lr=1,2"], "several values; for one run of each: dlrun sweep optimizer.lr=1,2 (or dlrun train --m"),
        (["model=glob(*)"], "dlrun sweep 'model=glob(*)'"),
        (["optimizer.lr=log(1e-4,1e-1)"], "dlrun sweep 'optimizer.lr=log(1e-4,1e-1)'"),
        (["sweep=tpe"], "'sweep=tpe' is for a sweep: dlrun sweep sweep=tpe"),
        (["+sweep=tpe"], "is for a sweep"),
        (["sweep.trials=5"], "is for a sweep"),
        (["launcher=slurm"], "is for a sweep"),
        (["pruner=asha"], "is for a sweep"),
        (["seeds=5"], "'seeds=5' is for a sweep: dlrun sweep seeds=5"),
        (["model@other=cnn"], "cannot be composed"),
        (["+optimizer.lr=3"], "cannot be composed"),
        (["++optimizer.lr=fast"], "optimizer.lr=fast: takes a number, not 'fast'"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: takes a number, not 'fast'"),
        (["optimizer={lr: 1}", "optimizer=3"], "optimizer"),
        (["trainer.seed=1.5"], "takes a whole number"),
        (["trainer.detect_anomaly=1"], "takes true or false"),
        (["trainer.limit=5"], "holds the keys train, val, test; set one of them (trainer.limit.NAME=...)"),
        (["model.hidden=100"], "model.hidden=100: takes a list, written 'model.hidden=[100]'"),
        (["model.hidden=[1,x]"], "model.hidden=x: takes a whole number"),
    ],
)
def test_a_mistake_has_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=1", "optimizer.lr=1e-3", "trainer.epochs=3", "trainer.epochs=0.5",
        "trainer.steps=5", "model.hidden=[]", "model.hidden=[1,2]", "+trainer.more=1", "++trainer.more=1",
        "++optimizer.lr=2", "optimizer.lr=${trainer.seed}", "~debug", "trainer.limit.val=0.5",
    ],
)  # fmt: skip
def test_what_may_be_written(override: str) -> None:
    assert compose([override])


def test_interpolations_stay_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary-1234567890")
    config = compose(["data.seed=${trainer.seed}", "optimizer.lr=${oc.env:SECRET_TOKEN}", "+trainer.x=${oc.env:NOPE}"])
    text = OmegaConf.to_yaml(config)
    assert "${trainer.seed}" in text
    assert "${oc.env:SECRET_TOKEN}" in text
    assert "${oc.env:NOPE}" in text
    assert "canary" not in text
    assert config.data.seed == config.trainer.seed


def test_a_later_run_in_the_same_process_starts_from_nothing() -> None:
    compose(["optimizer=sgd", "optimizer.lr=0.7"])
    with pytest.raises(ConfigError):
        compose(["modle=x"])
    assert compose([]).choices.optimizer == "adam"


# the user's own folder


def test_the_user_s_folder_wins_over_the_shipped_one(tmp_path: Path) -> None:
    write(tmp_path / "optimizer" / "adam.yaml", "# Mine\n_target_: torch.optim.Adam\nlr: 0.123\n")
    write(tmp_path / "model" / "mine.yaml", "# My net\n_target_: dlrun.models.mlp.MLP\nhidden: [5]\n")
    assert compose([], [tmp_path]).optimizer.lr == 0.123
    assert compose(["model=mine"], [tmp_path]).model.hidden == [5]
    assert compose([]).optimizer.lr != 0.123
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        compose(["model=mime"], [tmp_path])


def test_the_first_of_two_folders_wins(tmp_path: Path) -> None:
    for folder, rate in (("a", 0.1), ("b", 0.2)):
        write(tmp_path / folder / "optimizer" / "adam.yaml", f"# {folder}\n_target_: torch.optim.Adam\nlr: {rate}\n")
    folders = [tmp_path / "b", tmp_path / "a"]
    assert compose([], folders).optimizer.lr == 0.2
    assert next(o for o in groups(folders)["optimizer"] if o.name == "adam").meaning == "b"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        compose([], [tmp_path / "nowhere"])


def test_hydra_keys_in_a_user_s_file_do_nothing(tmp_path: Path) -> None:
    text = f"# @package _global_\n# Mine\nhydra:\n  run:\n    dir: {tmp_path}/planted\n  output_subdir: ../x\n"
    write(tmp_path / "experiment" / "mine.yaml", text)
    assert "hydra" not in compose(["experiment=mine"], [tmp_path])
    assert not (tmp_path / "planted").exists()


def test_groups_have_meanings(tmp_path: Path) -> None:
    write(tmp_path / "model" / "mine.yaml", "# @package _global_\n# My own net\nx: 1\n")
    write(tmp_path / "model" / "silent.yaml", "x: 1\n")
    write(tmp_path / "brand" / "new.yaml", "# A new group\nx: 1\n")
    found = groups([tmp_path])
    options = {option.name: option for option in found["model"]}
    assert options["mine"].meaning == "My own net"
    assert options["silent"].meaning == ""
    assert options["cnn"].path == config_dir() / "model" / "cnn.yaml"
    assert [option.name for option in found["brand"]] == ["new"]
    assert [option.name for option in found["model"]] == sorted(options)
    assert "mine" not in {option.name for option in groups()["model"]}


# completions


def test_completions_give_groups_options_and_keys() -> None:
    assert {"model=", "optimizer=", "trainer="} <= {word.rstrip(".=") + "=" for word in completions("")}
    assert "model=cnn" in completions("model=")
    assert completions("model=le") == ["model=lenet5"]
    assert "optimizer.lr=" in completions("optimizer.l")
    assert "model.dropout=" in completions("model=cnn model.dr")


@pytest.mark.parametrize("line", ["", "h", "hydra", "hydra.", "hydra/", "hydra.run.", "model=cnn hyd"])
def test_completions_never_give_hydra_s_keys(line: str) -> None:
    assert not [word for word in completions(line) if word.startswith("hydra")]


# change


def test_only_some_values_change() -> None:
    config = change(compose([]), ["trainer.steps=7", "trainer.budget=5m", "tracking.every=3"], CHANGEABLE)
    assert (config.trainer.steps, config.trainer.budget, config.tracking.every) == (7, "5m", 3)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=1", "cannot change when a run goes on (only trainer.steps, trainer.budget, tracking.*)"),
        ("optimizer.lr=1", "start a new run: dlrun train optimizer.lr=1"),
        ("trainer.stepss=1", "trainer.stepss cannot change"),
        ("trainer.steps.x=1", "trainer.steps.x cannot change"),
        ("trainer=default", "trainer cannot change"),
        ("tracking=minimal", "tracking cannot change"),
        ("model=cnn", "model cannot change"),
        ("tracking.evry=1", "'tracking' has no key 'evry'; did you mean 'every'?"),
        ("tracking.every=often", "tracking.every=often: takes a whole number"),
        ("tracking.every=1,2", "tracking.every"),
        ("hydra.run.dir=x", "closed"),
        ("trainer.steps", "cannot read 'trainer.steps'"),
    ],
)  # fmt: skip
def test_a_change_that_may_not_be(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        change(compose([]), [override], CHANGEABLE)


# check_type


@pytest.mark.parametrize(
    ("value", "default"),
    [
        (1, 2), (1, 2.0), (1.5, 2.0), (True, False), ("x", "y"), (5, "y"), (None, None), (3, None), ("x", "auto"),
        (3, "auto"), ("${trainer.seed}", 3), ([1, 2], OmegaConf.create([3])), ([], OmegaConf.create([3])),
        (["x"], OmegaConf.create([])), ({"a": 1}, OmegaConf.create({"a": 2})),
    ],
)  # fmt: skip
def test_values_that_fit(value: object, default: object) -> None:
    check_type("a.b", value, default)


@pytest.mark.parametrize(
    ("value", "default", "words"),
    [
        (1.5, 2, "a.b=1.5: takes a whole number, not '1.5'"),
        (True, 2, "takes a whole number"),
        ("x", 2.0, "takes a number, not 'x'"),
        (True, 2.0, "takes a number"),
        (1, True, "takes true or false"),
        ("yes", True, "takes true or false, not 'yes'"),
        ([1], "x", "takes a word, not '[1]'"),
        (5, OmegaConf.create([3]), "takes a list, written 'a.b=[5]'"),
        ([1, "x"], OmegaConf.create([3]), "a.b=x: takes a whole number"),
        (5, OmegaConf.create({"c": 1, "d": 2}), "'a.b' holds the keys c, d; set one of them (a.b.NAME=...)"),
    ],
)
def test_values_that_do_not_fit(value: object, default: object, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_type("a.b", value, default)


# load_config


def test_a_stored_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    written = compose(["data.seed=${trainer.seed}", "+trainer.x=${oc.env:NOPE}"])
    path.write_text(OmegaConf.to_yaml(written))
    assert load_config(path) == written
    assert OmegaConf.to_yaml(load_config(path)) == path.read_text()


@pytest.mark.parametrize(
    "text", ["a: [1", "- 1\n- 2\n", "a: 1\na: 2\n", "a: \0", "!!python/object/apply:os.system [id]"]
)
def test_a_damaged_configuration_is_named(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", text)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        load_config(tmp_path / "config.yaml")


def test_another_target_drops_the_keys_of_the_old_one() -> None:
    config = compose(["model._target_=torchvision.models.resnet18", "+model.zero_init_residual=true"])
    assert config.model == {"_target_": "torchvision.models.resnet18", "zero_init_residual": True}
    assert config.choices.model == "resnet18"
    assert "hidden" in compose(["model.dropout=0.1"]).model

"""How a sweep is searched and run: configs/sweep.yaml, its words, and the sentence for every mistake in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlrun.config import completions, config_dir, groups
from dlrun.errors import ConfigError
from dlrun.sweeps.nouns import Axis, Settings, Space
from dlrun.sweeps.settings import LAUNCHERS, PRUNERS, SAMPLERS, read_settings, storage_url

LISTS = Space((), (Axis("a", values=("1", "2", "3")), Axis("b", values=("1", "2"))))
INTERVALS = Space((), (Axis("a", low=0.0, high=1.0), Axis("b", values=("1", "2"))))


def read(*words: str, space: Space = LISTS, folders: tuple[Path, ...] = ()) -> Settings:
    return read_settings(words, space, folders)


def test_the_defaults_are_those_of_the_words_all_parts_share() -> None:
    assert read() == Settings()


def test_every_option_of_every_group() -> None:
    found = groups()
    assert {option.name for option in found["sweep"]} == set(SAMPLERS)
    assert {option.name for option in found["launcher"]} == set(LAUNCHERS)
    assert all(len(option.meaning) > 20 for group in ("sweep", "launcher") for option in found[group])
    for name in SAMPLERS:
        assert read(f"sweep={name}", "sweep.trials=4", space=LISTS if name == "grid" else INTERVALS).sampler == name
    for name in LAUNCHERS:
        assert read(f"launcher={name}").launcher == name
    for name in PRUNERS:
        assert read(f"pruner={name}") == read(f"sweep.pruner={name}") == Settings(pruner=name)


def test_every_key_is_explained() -> None:
    lines = (config_dir() / "sweep.yaml").read_text().partition("\nsweep:\n")[2].splitlines()
    assert len(lines) == 9
    assert all(re.fullmatch(r"  \w+: .+# .{10,}", line) for line in lines)


def test_the_keys_of_a_launcher_are_those_it_reads() -> None:
    launchers = pytest.importorskip("dlrun.sweeps.launchers.options", reason="the launchers are not there")
    from dlrun.sweeps.launchers.local import LocalOptions
    from dlrun.sweeps.launchers.ray import RayOptions
    from dlrun.sweeps.launchers.slurm import SlurmOptions

    for name, kind in {"local": LocalOptions, "ray": RayOptions, "slurm": SlurmOptions}.items():
        assert launchers.read_options(kind, name, read(f"launcher={name}").options) == kind()


def test_what_is_set() -> None:
    settings = read(
        "sweep=tpe", "sweep.trials=30", "pruner=asha", "sweep.metric=val/f1", "sweep.seed=3", "sweep.workers=2",
        "sweep.timeout=1h30m", "sweep.hang=90", "sweep.retries=0", "launcher=slurm", "launcher.partition=gpu",
        "launcher.setup=['module load cuda',b]", "+launcher.reservation=x", space=INTERVALS,
    )  # fmt: skip
    assert settings.options.pop("setup") == ["module load cuda", "b"]
    assert {"partition": "gpu", "reservation": "x", "requeue": True}.items() <= settings.options.items()
    settings.options.clear()
    assert settings == Settings(
        sampler="tpe", points=30, pruner="asha", metric="val/f1", seed=3, workers=2, timeout=5400.0, hang=90.0,
        retries=0, launcher="slurm",
    )  # fmt: skip
    assert read("launcher=packed", "launcher.lanes=16").lanes == 16
    assert read("sweep.pruner=null").pruner == "none"


def test_a_finite_space_has_only_so_many_points() -> None:
    assert read("sweep.trials=5").points == 5
    assert read("sweep.trials=7").points == 6
    assert read("sweep=random", "sweep.trials=1000").points == 6
    assert read("sweep=random").points is None
    assert read("sweep=random", "sweep.trials=1000", space=INTERVALS).points == 1000


@pytest.mark.parametrize(
    ("words", "space", "sentence"),
    [
        ((), INTERVALS, "a is an interval, which has no grid; pick a search, as sweep=tpe sweep.trials=30"),
        (("sweep=grid", "sweep.trials=5"), INTERVALS, "a is an interval, which has no grid"),
        (("sweep=tpe",), INTERVALS, "say how many points to try: sweep.trials=30"),
        (("sweep=cmaes", "sweep.trials=5"), LISTS, "sweep=cmaes searches intervals, and none is given"),
        (("sweep=asha",), LISTS, "asha is a pruner, which goes with any search: pruner=asha"),
        (("sweep=tpee",), LISTS, "the group 'sweep' has no 'tpee'; did you mean 'tpe'? (dlrun list sweep)"),
        (("sweep=tpe,random",), LISTS, "a sweep has one search and one launcher"),
        (("launcher=slurn",), LISTS, "did you mean 'slurm'? (dlrun list launcher)"),
        (("sweep.trails=3",), LISTS, "sweep.trails: 'sweep' has no key 'trails'; did you mean 'trials'?"),
        (("+sweep.trails=3",), LISTS, "sweep.trails: there is no such setting; did you mean 'trials'?"),
        (("launcher=local", "launcher.lanes=3"), LISTS, "'launcher' has no key 'lanes'"),
        (("sweep.sampler=best",), LISTS, "sweep.sampler=best: there is no such choice"),
        (("launcher.name=best",), LISTS, "launcher.name=best: there is no such choice"),
        (("pruner=ashe",), LISTS, "sweep.pruner=ashe: there is no such choice; did you mean 'asha'?"),
        (("sweep.trials=0",), LISTS, "sweep.trials=0: takes a whole number from 1"),
        (("sweep.trials=1.5",), LISTS, "sweep.trials=1.5: takes a whole number"),
        (("sweep.trials=true",), LISTS, "takes a whole number"),
        (("sweep.seed=-1",), LISTS, "sweep.seed=-1: takes a whole number from 0"),
        (("sweep.seed=4294967296",), LISTS, "sweep.seed=4294967296: takes"),
        (("sweep.workers=0",), LISTS, "sweep.workers=0: takes a whole number from 1"),
        (("sweep.workers=two",), LISTS, "takes a whole number, not 'two'"),
        (("sweep.retries=-1",), LISTS, "sweep.retries=-1: takes a whole number from 0"),
        (("sweep.timeout=soon",), LISTS, "sweep.timeout=soon: takes a time such as 90s, 5m or 1h30m"),
        (("sweep.timeout=0",), LISTS, "takes a time"),
        (("sweep.hang=null",), LISTS, "sweep.hang=null: takes a time"),
        (("sweep.metric=3",), LISTS, "such as val/accuracy, or auto"),
        (("launcher.lanes=0",), LISTS, "launcher.lanes=0: takes a whole number from 1"),
        (("sweep.storage=study.db",), LISTS, "takes the URL of a database"),
        (("sweep.metric=${oc.env:DLRUN_NOT_SET}",), LISTS, "'sweep' cannot be resolved"),
        (("~sweep.seed",), LISTS, "sweep.seed is missing"),
        (("~launcher",), LISTS, "a sweep needs its 'launcher'; choose one: dlrun list launcher"),
    ],
)
def test_a_mistake_has_one_sentence(words: tuple[str, ...], space: Space, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)) as caught:
        read(*words, space=space)
    assert "\n" not in str(caught.value)


# storage


def test_a_password_comes_from_the_environment_and_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLRUN_TEST_SECRET", "canary-123")
    settings = read("sweep.storage=postgresql+psycopg://me:${oc.env:DLRUN_TEST_SECRET}@host/name")
    assert "canary" not in repr(settings)
    assert storage_url(settings) == "postgresql+psycopg://me:canary-123@host/name"
    monkeypatch.delenv("DLRUN_TEST_SECRET")
    with pytest.raises(ConfigError, match=r"sweep\.storage cannot be looked up: .*DLRUN_TEST_SECRET"):
        storage_url(settings)
    assert storage_url(read()) is None


def test_a_password_in_the_words_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=re.escape("${oc.env:NAME}")) as caught:
        read("sweep.storage=postgresql+psycopg://me:canary-123@host/name")
    assert "canary" not in str(caught.value)
    url = "postgresql+psycopg://me@host/name"
    assert storage_url(read(f"sweep.storage={url}")) == url


# the user's own options


def test_options_of_the_user_s_own(tmp_path: Path) -> None:
    for group, text in (
        ("sweep", "# Mine\ndefaults:\n  - tpe\ntrials: 12\npruner: asha\n"),
        ("launcher", "# Our cluster\ndefaults:\n  - slurm\npartition: a100\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    settings = read("sweep=mine", "launcher=mine", "launcher.cpus=4", space=INTERVALS, folders=(tmp_path,))
    assert (settings.sampler, settings.points, settings.pruner, settings.launcher) == ("tpe", 12, "asha", "slurm")
    assert (settings.options["partition"], settings.options["cpus"]) == ("a100", 4)


# completion


def test_words_of_a_sweep_complete_for_a_sweep_alone() -> None:
    assert {"sweep=", "launcher=", "pruner=", "seeds=", "model="} <= {
        w.rstrip("=.") + "=" for w in completions("", sweep=True)
    }
    assert completions("sweep=t", sweep=True) == ["sweep=tpe"]
    assert completions("sweep.tr", sweep=True) == ["sweep.trials="]
    assert "launcher.partition=" in completions("model=cnn,mlp seeds=2 launcher=slurm launcher.p", sweep=True)
    assert "optimizer.lr=" in completions(
        "model=cnn,mlp seeds=2 optimizer.weight_decay=0,1 sweep=tpe optimizer.l", sweep=True
    )
    for line in ("", "sw", "sweep=", "sweep.", "launcher=", "s"):
        assert not [word for word in completions(line) if word.startswith(("sweep", "launcher", "pruner", "seeds"))]

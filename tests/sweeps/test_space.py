"""Reading what is swept: Hydra's grammar, values that read back as they are, seeds, and every mistake's sentence."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.config import compose, open_loader
from dlrun.config_words import parser
from dlrun.errors import ConfigError
from dlrun.sweeps.nouns import Axis, Space
from dlrun.sweeps.space import draw, number, read_space, split_words, written

READER = parser(open_loader())


def only(word: str) -> Axis:
    """The one axis that a word spans."""
    [axis] = read_space([word]).axes
    return axis


def test_torch_and_optuna_are_not_imported() -> None:
    program = (
        "import sys\nfrom dlrun.sweeps.space import read_space\nfrom dlrun.sweeps.points import Composer\n"
        "from dlrun.sweeps.settings import read_settings\nimport dlrun.sweeps.frozen\n"
        "space = read_space(['model=cnn,mlp', 'optimizer.lr=0.1,0.2'])\nread_settings(['sweep=tpe'], space)\n"
        "[Composer().config(point, 0) for point in Composer().grid(space)]\n"
        "assert not {'torch', 'optuna'} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# words


def test_words_for_the_sweep_itself_are_split_off() -> None:
    space, how = split_words(
        ["model=cnn,mlp", "sweep=tpe", "sweep.trials=3", "seeds=2", "pruner=asha", "+launcher.x=1", "launcher=slurm"]
    )
    assert space == ["model=cnn,mlp", "seeds=2"]
    assert how == ["sweep=tpe", "sweep.trials=3", "pruner=asha", "+launcher.x=1", "launcher=slurm"]
    assert split_words(["data.sweep=1", "sweeper=2"])[1] == []


def test_groups_come_first_and_single_values_are_fixed() -> None:
    space = read_space(["optimizer.lr=0.1,0.2", "data=iris", "trainer.steps=choice(5)", "model=mlp,cnn"])
    assert [axis.key for axis in space.axes] == ["model", "optimizer.lr"]
    assert [axis.group for axis in space.axes] == [True, False]
    assert space.fixed == ("data=iris", "trainer.steps=5")
    assert space.finite
    assert read_space([]) == Space((), ())


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("x=range(1,4)", ["1", "2", "3"]),
        ("x=range(3)", ["0", "1", "2"]),
        ("x=range(0,10,step=5)", ["0", "5"]),
        ("x=range(5,0,step=-2)", ["5", "3", "1"]),
        ("x=range(0,0.5,step=0.1)", ["0.0", "0.1", "0.2", "0.3", "0.4"]),
        ("x=float(range(0,2))", ["0.0", "1.0"]),
        ("x=choice(4,7)", ["4", "7"]),
        ("x=1e-4,1e-3", ["0.0001", "0.001"]),
        ("x=sort(3,1,2)", ["1", "2", "3"]),
        ("x=sort(range(3),reverse=true)", ["2", "1", "0"]),
        ("x=[1],[2,3]", ["[1]", "[2,3]"]),
        ("x={a:1},{a:[2,'b c']}", ["{a:1}", "{a:[2,'b c']}"]),
        ("x=true,null,auto", ["true", "null", "auto"]),
        ("x=int(1.5,2.5)", ["1", "2"]),
        ("x=str(1,null2)", ["'1'", "null2"]),
        ("x='a b',\"c,d\"", ["'a b'", '"c,d"']),
        ("x=${y.z},1", ["${y.z}", "1"]),
        ("x=1,1,2", ["1", "2"]),
        ("precision=glob(*, exclude=[t*, b*])", ["auto", "fp16", "fp32"]),
        ("precision=glob([b*, t*])", ["bf16", "tf32"]),
    ],
)
def test_lists_ranges_and_globs(word: str, values: list[str]) -> None:
    assert list(only(word).values) == values


def test_a_shuffled_list_has_one_order() -> None:
    first = only("x=shuffle(range(50))").values
    assert sorted(map(int, first)) == list(range(50))
    assert first != tuple(map(str, range(50)))
    assert all(only("x=shuffle(range(50))").values == first for _ in range(3))
    fixed = read_space(["x=shuffle([1,2,3,4,5,6,7,8])"]).fixed  # no sweep, but shuffled each time it is read
    assert re.fullmatch(r"x=\[[\d,]+\]", fixed[0])


@pytest.mark.parametrize(
    ("word", "axis"),
    [
        ("x=interval(1e-4,1)", Axis("x", low=1e-4, high=1.0)),
        ("x=log(1e-4,1e-1)", Axis("x", low=1e-4, high=0.1, log=True)),
        ("x=tag(log,interval(1e-4,1e-1))", Axis("x", low=1e-4, high=0.1, log=True)),
        ("x=int(interval(1,10))", Axis("x", low=1.0, high=10.0, integer=True)),
        ("x=int(log(1,64))", Axis("x", low=1.0, high=64.0, integer=True, log=True)),
        ("x=tag(log,int(interval(1,64)))", Axis("x", low=1.0, high=64.0, integer=True, log=True)),
        ("x=float(int(interval(1,10)))", Axis("x", low=1.0, high=10.0)),
        ("+x.y=interval(-1,1)", Axis("x.y", "+", low=-1.0, high=1.0)),
        ("++x=1,2", Axis("x", "++", values=("1", "2"))),
        ("model@other=cnn,mlp", Axis("model@other", group=True, values=("cnn", "mlp"))),
    ],
)
def test_intervals_and_prefixes(word: str, axis: Axis) -> None:
    assert only(word) == axis
    assert axis.finite == bool(axis.values)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x=interval(3,1)"], "the lower end comes first"),
        (["x=interval(1,1)"], "the upper end is above it"),
        (["x=log(0,1)"], "a logarithmic scale has no 0; begin above 0"),
        (["x=log(-1,1)"], "a logarithmic scale has no -1"),
        (["x=interval(0,inf)"], "two finite ends"),
        (["x=tag(quick,interval(0,1))"], "the only tag is log, as in x=log(1e-4,1e-1)"),
        (["x=tag(log,1,2)"], "cannot read"),
        (["x=tag(log,choice(1,2))"], "tags go with intervals"),
        (["x=range(3,1)"], "names no value at all"),
        (["x=range(0,1,step=0)"], "steps of 0"),
        (["x=range(0,1e9)"], "more than 100,000 values; use an interval"),
        (["x=range(0,inf)"], "a range needs finite ends"),
        (["model=glob(zzz*)"], "names no value at all"),
        (["x=glob(*)"], "glob picks options of a config group; list the values of x"),
        (["model=interval(0,1)"], "the options of the group 'model' have no order; name them: model=a,b or glob(*)"),
        (["x=1,2", "x=3"], "x is given twice"),
        (["x=1", "+x=3,4"], "x is given twice"),
        (["model=cnn", "model=mlp,rbm"], "model is given twice"),
        (["~x=1,2"], "what is left out cannot be swept"),
        (["x=[choice(1,2)]"], "a list cannot hold a sweep"),
        (["x=[interval(0,1)],2"], "a list cannot hold a sweep"),
        (["x=log(1)"], "cannot read 'x=log(1)'"),
        (["x=choice()"], "cannot read"),
        (["hydra.sweep.dir=a,b"], "closed"),
        (["seeds=0"], "takes how many seeds, such as seeds=5"),
        (["seeds=1,2"], "name them with seed=1,2,3"),
        (["seeds=-1"], "takes how many"),
        (["seeds"], "takes how many"),
        (["seeds=99999999"], "takes how many"),
        (["seeds=2", "seeds=3"], "the seeds are given twice: seeds=2 and seeds=3"),
        (["seed=1", "trainer.seed=2"], "the seeds are given twice: seed=1 and trainer.seed=2"),
        (["seeds=2", "seed=1,2"], "both say how many seeds"),
        (["seed=-1"], "seeds are whole numbers"),
        (["seed=1.5,2"], "seeds are whole numbers"),
        (["seed=true"], "seeds are whole numbers"),
        (["seed=range(3,1)"], "names no seed at all"),
        (["seed=interval(0,5)"], "seeds=5 or seed=range(5)"),
    ],
)
def test_a_mistake_has_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)) as caught:
        read_space(words)
    assert "\n" not in str(caught.value)


# seeds


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ([], (0,)),
        (["seeds=3"], (0, 1, 2)),
        (["trainer.seed=7"], (7,)),
        (["seed=7"], (7,)),
        (["seed=7", "seeds=3"], (7, 8, 9)),
        (["trainer.seed=1,5,1"], (1, 5)),
        (["seed=range(4)"], (0, 1, 2, 3)),
        (["++trainer.seed=choice(2,3)"], (2, 3)),
    ],
)
def test_seeds_are_replicates_and_never_an_axis(words: list[str], seeds: tuple[int, ...]) -> None:
    space = read_space(["optimizer.lr=0.1,0.2", *words])
    assert space.seeds == seeds
    assert [axis.key for axis in space.axes] == ["optimizer.lr"]
    assert space.fixed == ()


def test_without_a_word_the_seed_is_that_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n# Mine\ntrainer:\n  seed: 11\n")
    assert read_space(["experiment=mine"], [tmp_path]).seeds == (11,)
    assert read_space(["experiment=mine", "seeds=2"], [tmp_path]).seeds == (11, 12)
    assert read_space(["experiment=mine", "seed=3"], [tmp_path]).seeds == (3,)


# values as written

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"\A[a-z][a-z_0-9]{0,5}\Z"), inner),
    max_leaves=6,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_a_written_value_reads_back_as_it_is(value: Any) -> None:
    word = READER.parse_override(f"x={written(value, READER)}")
    assert not word.is_sweep_override()
    assert same(word.value(), value)


@given(st.lists(VALUES, min_size=2, max_size=4, unique_by=repr))
@settings(max_examples=25, deadline=None)
def test_the_values_of_an_axis_read_back_as_they_are(values: list[Any]) -> None:
    [axis] = read_space(["seed=0", "x=" + ",".join(written(value, READER) for value in values)]).axes
    assert all(
        same(READER.parse_override(f"x={text}").value(), value) for text, value in zip(axis.values, values, strict=True)
    )


@pytest.mark.parametrize(
    "value", ["", " a", "a,b", "a'b", 'a"b', "a\\", "null", "True", "1e5", "choice(1,2)", "a=b", "[x", "{}", "~/d", "é"]
)
def test_a_written_text_composes_to_itself(value: str) -> None:
    assert compose([f"+data.name={written(value, READER)}"]).data.name == value


def test_an_interpolation_stays_one() -> None:
    axis = only("optimizer.lr=${trainer.seed},0.1")
    assert compose([f"optimizer.lr={axis.values[0]}", "trainer.seed=3"]).optimizer.lr == 3


# drawing


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.booleans(), st.integers())
@settings(max_examples=100, deadline=None)
def test_what_is_drawn_lies_in_the_interval(one: float, other: float, log: bool, seed: int) -> None:
    axis = Axis("x", low=min(one, other), high=max(one, other) * 1.5, log=log)
    assert axis.low is not None
    assert axis.high is not None
    assert axis.low <= float(draw(axis, random.Random(seed))) <= axis.high


def test_whole_numbers_are_drawn_whole_and_logarithms_evenly() -> None:
    source = random.Random(0)
    whole = [draw(Axis("x", low=1.0, high=4.0, integer=True), source) for _ in range(200)]
    assert set(whole) == {"1", "2", "3", "4"}
    small = [float(draw(Axis("x", low=1e-4, high=1.0, log=True), source)) < 1e-2 for _ in range(1000)]
    assert 400 < sum(small) < 600
    assert number(Axis("x", low=0.0, high=1.0), 1) == "1.0"

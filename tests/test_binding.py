"""Keys bound to signatures: unknown, missing, mistyped, nested, and what is known only at run time."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from dlrun.binding import bound, make, name_of
from dlrun.errors import ConfigError, RefusedError

PACKAGE = "bound_for_dlrun"


class Plain:
    def __init__(self, width: int, rate: float = 0.5, name: str = "x", deep: bool = False) -> None:
        self.seen = (width, rate, name, deep)


class Optional:
    def __init__(self, width: int | None = None, sizes: list[int] | None = None, more: dict[str, Any] | None = None):
        self.seen = (width, sizes, more)


class Facts:
    def __init__(self, in_shape: tuple[int, ...], width: int = 3) -> None:
        self.seen = (in_shape, width)


class Anything:
    def __init__(self, width: int, **more: Any) -> None:
        self.seen = (width, more)


class Outer:
    def __init__(self, inner: Plain, others: Any = None) -> None:
        self.inner, self.others = inner, others


class Unjudged:
    def __init__(self, width: NotThere) -> None:  # type: ignore[name-defined] # noqa: F821 - on purpose
        self.seen = width


class Picky:
    def __init__(self, width: int, how: str = "value") -> None:
        if how == "config":
            raise ConfigError("model.width=3 is odd")
        if how == "other":
            raise ConfigError("odd")
        if how == "refused":
            raise RefusedError("not this")
        if how == "silent":
            raise ValueError
        if how == "bug":
            raise ZeroDivisionError("a bug")
        raise {"value": ValueError, "type": TypeError}[how](f"width {width} is odd\nsecond line")


def function(width: int) -> int:
    return width + 1


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes above as a package that the command line trusts."""
    package = ModuleType(PACKAGE)
    for item in (Plain, Optional, Facts, Anything, Outer, Unjudged, Picky, function):
        monkeypatch.setattr(item, "__module__", PACKAGE)
        setattr(package, item.__name__, item)
    monkeypatch.setitem(sys.modules, PACKAGE, package)
    monkeypatch.setattr(sys, "path", list(sys.path))


def build(target: str, runtime: dict[str, Any] | None = None, /, **arguments: Any) -> Any:
    return make({"_target_": f"{PACKAGE}.{target}"} | arguments, "model", runtime, [PACKAGE])


def test_keys_become_arguments() -> None:
    assert build("Plain", width=3, rate=1).seen == (3, 1, "x", False)
    assert build("Optional", width=None, sizes=[1], more={"a": 1}).seen == (None, [1], {"a": 1})
    assert build("function", width=3) == 4
    assert build("Unjudged", width="anything").seen == "anything"


def test_nothing_is_called_until_it_is_made() -> None:
    target, arguments = bound({"_target_": f"{PACKAGE}.Picky", "width": 3}, "model", {}, [PACKAGE])
    assert target is Picky
    assert arguments == {"width": 3}


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Plain", {"width": 1, "rat": 2}, r"model\.rat: Plain takes no 'rat'; did you mean 'rate'\?"),
        ("Plain", {"width": 1, "qqq": 2}, r"model\.qqq: Plain takes no 'qqq'; there are: deep, name, rate, width"),
        ("Plain", {}, r"model: Plain needs 'width'; set model\.width=\.\.\."),
        ("Plain", {"width": "wide"}, r"model\.width=wide: takes a whole number"),
        ("Plain", {"width": 1.5}, r"model\.width=1\.5: takes a whole number"),
        ("Plain", {"width": True}, r"model\.width=True: takes a whole number"),
        ("Plain", {"width": None}, r"model\.width=None: takes a whole number"),
        ("Plain", {"width": 1, "rate": "fast"}, r"model\.rate=fast: takes a number"),
        ("Plain", {"width": 1, "rate": False}, r"model\.rate=False: takes a number"),
        ("Plain", {"width": 1, "name": 5}, r"model\.name=5: takes a word"),
        ("Plain", {"width": 1, "deep": 1}, r"model\.deep=1: takes true or false"),
        ("Optional", {"width": "x"}, r"model\.width=x: takes a whole number$"),
        ("Optional", {"sizes": 3}, r"model\.sizes=3: takes a list$"),
        ("Optional", {"more": [1]}, r"model\.more=\[1\]: takes a mapping$"),
        ("Anything", {}, "Anything needs 'width'"),
        ("function", {"width": 1, "widht": 1}, "function takes no 'widht'; did you mean 'width'"),
    ],
)
def test_a_wrong_key_has_one_sentence(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(name, **arguments)


@pytest.mark.parametrize("node", [{}, {"width": 3}, None, "Plain", ["Plain"]])
def test_a_node_without_a_target(node: Any) -> None:
    with pytest.raises(ConfigError, match=r"model: needs _target_"):
        make(node, "model")


def test_facts_known_at_run_time_are_given_where_they_are_named() -> None:
    runtime = {"in_shape": (1, 8, 8), "out_features": 10}
    assert build("Facts", runtime).seen == ((1, 8, 8), 3)
    assert build("Plain", runtime, width=2).seen[0] == 2
    assert build("Anything", runtime, width=2).seen == (2, {}), "**more names nothing"
    with pytest.raises(ConfigError, match="Facts needs 'in_shape'"):
        build("Facts", {"out_features": 10})


def test_the_config_s_own_keys_win_over_facts() -> None:
    assert build("Facts", {"in_shape": (1,), "width": 9}).seen == ((1,), 9)
    assert build("Facts", {"in_shape": (1,), "width": 9}, width=4).seen == ((1,), 4)


def test_facts_are_not_offered_as_keys() -> None:
    with pytest.raises(ConfigError, match=r"takes no 'in_shap'; there are: width$"):
        build("Facts", {"in_shape": (1,)}, in_shap=(2,))


def test_a_target_that_takes_anything() -> None:
    assert build("Anything", width=1, colour="red").seen == (1, {"colour": "red"})


def test_nodes_in_arguments_are_built_first() -> None:
    node = {"_target_": f"{PACKAGE}.Facts"}
    outer = build("Outer", {"in_shape": (5,)}, inner=node, others={"a": [1, 2]})
    assert outer.inner.seen == ((5,), 3)
    assert outer.others == {"a": [1, 2]}, "a mapping without a target is plain data"
    with pytest.raises(ConfigError, match=r"model\.inner\.rat: Plain takes no 'rat'"):
        build("Outer", inner={"_target_": f"{PACKAGE}.Plain", "width": 1, "rat": 1})


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("value", ConfigError, r"^model: Picky refuses its arguments: width 3 is odd$"),
        ("type", ConfigError, r"^model: Picky refuses its arguments: width 3 is odd$"),
        ("silent", ConfigError, r"^model: Picky refuses its arguments: ValueError$"),
        ("config", ConfigError, r"^model\.width=3 is odd$"),
        ("other", ConfigError, r"^model: odd$"),
        ("refused", RefusedError, r"^not this$"),
        ("bug", ZeroDivisionError, r"^a bug$"),
    ],
)
def test_what_a_constructor_raises(how: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        build("Picky", width=3, how=how)


def test_a_partial_is_bound_like_its_function() -> None:
    target, arguments = bound(
        {"_target_": "torchvision.models.resnet18"}, "model", {"in_shape": (3, 32, 32), "out_features": 2}
    )
    assert isinstance(target, partial)
    assert arguments == {"in_shape": (3, 32, 32), "out_features": 2}
    assert name_of(target) == "resnet18"
    node = {"_target_": "torchvision.models.resnet18", "_partial_": True}
    with pytest.raises(ConfigError, match="_partial_"):
        make(node, "model", {"in_shape": (3, 32, 32), "out_features": 2})


def test_names_for_a_reader() -> None:
    assert name_of(Plain) == "Plain"
    assert name_of(function) == "function"
    assert name_of(partial(function)) == "function"

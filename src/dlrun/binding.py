"""From a config node to an object: every key bound to its target's signature before anything is called."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dlrun.allowlist import locate
from dlrun.errors import ConfigError, did_you_mean

Node = dict[str, Any]


def make(node: Node, key: str, runtime: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()) -> Any:
    """Build the object a config node describes.

    Args:
        node: ``_target_`` and keyword arguments; nested nodes are built first.
        key: where the node stands in the config, for errors.
        runtime: facts known only now; those the signature names are passed along, the config's own keys win.
        trusted: packages the command line trusts.

    Raises:
        RefusedError: the target is not on the allow-list.
        ConfigError: an unknown, missing or mistyped key.
    """
    target, arguments = bound(node, key, runtime, trusted)
    try:
        return target(**arguments)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(key) else f"{key}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {name_of(target)} refuses its arguments: {_first_line(error)}") from error


def bound(
    node: Node, key: str, runtime: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The target and its checked arguments, not called yet."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: needs _target_, the class to build")
    target = locate(node["_target_"], key, trusted)
    fixed = target.keywords if isinstance(target, partial) else {}  # torchvision.models.X says the name already
    node = {name: value for name, value in node.items() if name not in fixed}
    signature = inspect.signature(target)
    parameters = signature.parameters
    arguments = {
        name: make(value, f"{key}.{name}", runtime, trusted)
        if isinstance(value, dict) and "_target_" in value
        else value
        for name, value in node.items()
        if name != "_target_"
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    supplied = {n: v for n, v in (runtime or {}).items() if n in names}
    settable = [n for n in names if n not in supplied and n not in ("params", "self")]
    for name, value in arguments.items():
        if not isinstance(name, str) or name == "params" or (name not in names and not anything):
            raise ConfigError(f"{key}.{name}: {name_of(target)} takes no '{name}'{did_you_mean(str(name), settable)}")
        _check_annotation(f"{key}.{name}", value, _annotations(target).get(name))
    for name in settable:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"{key}: {name_of(target)} needs '{name}'; set {key}.{name}=...")
    return target, supplied | arguments


def name_of(target: Callable[..., Any]) -> str:
    """A target's name as a reader knows it."""
    if isinstance(target, partial):
        return str(target.keywords.get("name", target.func.__name__))
    return getattr(target, "__name__", str(target))


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.func if isinstance(target, partial) else target
    function = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}  # names that exist for the type checker alone


WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    list: "a list",
    dict: "a mapping",
}


def _check_annotation(key: str, value: Any, annotation: Any) -> None:
    """Refuse a value that its parameter's annotation rules out; annotations beyond plain types are not judged."""
    if annotation is None or annotation is Any:
        return
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    choices = typing.get_args(annotation) if union else (annotation,)
    kinds = [typing.get_origin(choice) or choice for choice in choices]
    if any(kind not in WORDS and kind is not types.NoneType for kind in kinds):
        return
    if not any(_is_a(value, kind) for kind in kinds):
        wanted = " or ".join(WORDS[kind] for kind in kinds if kind in WORDS)
        raise ConfigError(f"{key}={value}: takes {wanted}")


def _is_a(value: Any, kind: Any) -> bool:
    if kind is types.NoneType:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, kind)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""The keys of a launcher: from the words ``launcher.KEY=VALUE`` to a dataclass, or a sentence saying what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dlrun.errors import ConfigError, did_you_mean
from dlrun.value_types import parse_time

Options = TypeVar("Options")

_WANTED = {
    int: "a whole number, 0 or more",
    float: "a number, 0 or more",
    bool: "true or false",
    str: "one word",
    tuple: "a list",
    dict: "a mapping, such as {reservation: course}",
}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?")


def read_options(kind: type[Options], launcher: str, given: Mapping[str, Any]) -> Options:
    """An instance of the dataclass ``kind`` with the given keys.

    A field of type ``tuple[str, ...]`` takes a list or one word; ``float`` takes whole numbers; ``str`` takes numbers.

    Raises:
        ConfigError: a key that the launcher does not have, or a value of the wrong type.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass, as documented
    hints, values = get_type_hints(kind), {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"launcher.{key}: launcher={launcher} has no such key{did_you_mean(key, known)}")
        values[key] = _as_type(f"launcher.{key}", value, hints[key])
    return kind(**values)


def _as_type(name: str, value: Any, hint: Any) -> Any:
    """The value as the type of its field."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind = get_origin(kinds[0]) or kinds[0]
    number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if kind is tuple and isinstance(value, str | list | tuple):
        return (value,) if isinstance(value, str) else tuple(map(str, value))
    if (kind in (int, bool, dict) and type(value) is kind) and (kind is not int or number):
        return value
    if (kind is float and number) or (kind is str and (number or isinstance(value, str))):
        return kind(value)
    raise ConfigError(f"{name}={value}: must be {_WANTED[kind]}")


def minutes(text: str) -> int:
    """A time limit in whole minutes, rounded up.

    Args:
        text: minutes as a number, a time with units such as ``90s`` or ``1h30m``, or as Slurm writes it:
            ``HOURS:MINUTES:SECONDS``, ``DAYS-HOURS:MINUTES``.

    Raises:
        ConfigError: none of them.
    """
    text = text.strip()
    if not (clock := _CLOCK.fullmatch(text)):
        unit = "m" if text.replace(".", "", 1).isdigit() else ""
        seconds = parse_time("launcher.time", text + unit) or 0.0
        return math.ceil(seconds / 60)
    days, first, second, third = (int(part or 0) for part in clock.groups())
    if clock[1]:  # DAYS-HOURS:MINUTES[:SECONDS]
        return days * 1440 + first * 60 + second + (third > 0)
    if clock[4]:  # HOURS:MINUTES:SECONDS
        return first * 60 + second + (third > 0)
    return first + (second > 0)  # MINUTES:SECONDS, as Slurm reads it

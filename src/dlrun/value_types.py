"""Whether an override has the type of the value it replaces, and times such as 1h30m. No torch here."""

from __future__ import annotations

import re
from typing import Any

from dlrun.errors import ConfigError

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_time(key: str, text: Any) -> float | None:
    """Seconds of ``90``, ``90s``, ``5m``, ``1h30m``; None stays None.

    Raises:
        ConfigError: no such time; names the key.
    """
    if text is None:
        return None
    number = r"\d{1,9}(?:\.\d{1,9})?"
    known = re.fullmatch(rf"{number}|(?:{number}\s*[smhd]\s*)+", str(text).strip())
    pieces = re.findall(rf"({number})\s*([smhd]?)", str(text)) if known else []
    seconds = sum(float(count) * UNITS[unit or "s"] for count, unit in pieces)
    if isinstance(text, bool) or seconds <= 0:
        raise ConfigError(f"{key}={text}: takes a time such as 90s, 5m or 1h30m")
    return seconds


def check_type(key: str, value: Any, default: Any) -> None:
    """Refuse ``value`` for ``key`` when the default shows that it must be of another type.

    A default of null or ``auto`` says nothing.
    """
    from omegaconf import DictConfig, ListConfig

    if isinstance(value, str) and "${" in value:
        return
    if default is None or default == "auto":
        return
    quoted = _plain(value)
    if isinstance(default, DictConfig):
        if not isinstance(value, dict):
            names = ", ".join(str(name) for name in default)
            raise ConfigError(f"{key}={quoted}: '{key}' holds the keys {names}; set one of them ({key}.NAME=...)")
    elif isinstance(default, ListConfig):
        if not isinstance(value, list):
            raise ConfigError(f"{key}={quoted}: takes a list, written '{key}=[{quoted}]'")
        for item in value:
            if len(default) and not isinstance(default[0], (DictConfig, ListConfig)):
                check_type(key, item, default[0])
    elif not _fits(value, type(default)):
        raise ConfigError(f"{key}={quoted}: takes {KINDS.get(type(default), type(default).__name__)}, not '{quoted}'")


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is str:
        return not isinstance(value, (list, dict))
    return isinstance(value, kind)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_plain(item) for item in value) + "]"
    return str(value)

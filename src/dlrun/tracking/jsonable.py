"""JSON that every reader accepts: NaN and the infinities are written as strings, and come back as floats."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

_SPOKEN = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any) -> Any:
    """``value`` in JSON's own types; raises TypeError for what has no place in a record."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def spoken(value: Any) -> Any:
    """The inverse of `plain` for non-finite numbers."""
    if isinstance(value, str):
        return _SPOKEN.get(value, value)
    if isinstance(value, dict):
        return {key: spoken(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spoken(item) for item in value]
    return value

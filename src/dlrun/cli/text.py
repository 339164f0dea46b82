"""How numbers, times and names look on the screen."""

from __future__ import annotations

import math


def printable(text: object) -> str:
    """``text`` on one line, with control characters (a class may be named anything) shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def number(value: object) -> str:
    """Four significant digits for a float, thousands separators for an int, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable("" if value is None else value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size == 0:
        return "0.000"
    if size < 1e-4 or size >= 1e7:
        return f"{value:.3e}"
    return f"{value:,.0f}" if size >= 9999.5 else f"{value:#.4g}".removesuffix(".")


def short(value: float) -> str:
    """A count in three digits: 999, 12.3k, 4.56M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:#.3g}".removesuffix(".") + unit
    return f"{value:.0f}"


def clock(seconds: float) -> str:
    """A duration as 0:07, 3:05 or 1:02:03."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shape(sizes: object) -> str:
    """A tensor's shape as ``3 x 32 x 32``; several shapes are joined by a comma."""
    if isinstance(sizes, list | tuple):
        if sizes and isinstance(sizes[0], list | tuple):
            return ", ".join(shape(inner) for inner in sizes)
        return " x ".join(str(size) for size in sizes)
    return printable(sizes)

"""Markdown and JSON of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import slug

RESULTS = Path(__file__).resolve().parent / "results"


def cell(value: Mapping[str, float] | None, digits: int = 0, factor: float = 1.0) -> str:
    """``median (lowest-highest)``, or a dash."""
    if not value:
        return "-"
    middle, low, high = (f"{value[key] * factor:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{middle} ({low}-{high})"


def rows_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def page(title: str, where: Mapping[str, Any], said: Sequence[str], *parts: Sequence[str]) -> str:
    """A whole file: title, context, words, tables."""
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in where.items()), ""]
    for part in (said, *parts):
        lines += [*part, ""]
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path, command: str, where: Mapping[str, Any], found: Any, text: str) -> Path:
    """``COMMAND-HARDWARE.json`` and ``.md``; the markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{command}-{slug(str(where['hardware']))}-{where['threads']}-threads.md"
    path.with_suffix(".json").write_text(json.dumps({"context": dict(where), "found": found}, indent=1) + "\n")
    path.write_text(text)
    print(text)
    return path

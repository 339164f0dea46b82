"""One table, drawn in two ways: by rich on a terminal, as aligned plain text in a pipe; or printed as JSON."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from dlrun.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable


class Table(NamedTuple):
    """Cells that are already text; ``align`` has one letter per column, ``l`` or ``r``.

    ``spare`` names the columns that a terminal too narrow for all of them does without, the first of them first.
    """

    title: str
    columns: tuple[str, ...]
    align: str
    rows: Sequence[tuple[str, ...]]
    spare: tuple[str, ...] = ()


def interactive(stream: TextIO) -> bool:
    """Whether a person watches ``stream`` on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def rich_console(stream: TextIO) -> Console:
    """A rich console on ``stream`` that takes every text literally; colours obey NO_COLOR."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def print_tables(tables: Iterable[Table], stream: TextIO | None = None) -> None:
    """Print tables one below another on ``stream`` (standard output by default)."""
    out = stream or sys.stdout
    if interactive(out):
        console = rich_console(out)
        for table in tables:
            console.print(rich_table(table, console.width))
            console.print()
        return
    print("\n\n".join(plain_table(table) for table in tables), file=out)


def plain_table(table: Table) -> str:
    """The table as lines of text; columns stand two spaces apart, nothing is cut."""
    rows = [tuple(printable(cell) for cell in row) for row in table.rows]
    header = [tuple(map(printable, table.columns))] if any(table.columns) else []
    widths = [max(map(len, column)) for column in zip(*header, *rows, strict=True)]
    lines = [printable(table.title)] if table.title else []
    for row in [*header, *rows]:
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, table.align, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def rich_table(table: Table, width: int) -> RichTable:
    """The table for a terminal of ``width`` columns: a quiet header, no box."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    table = _fitting(table, width)
    drawn = RichTable(
        title=Text(printable(table.title), style="bold") if table.title else None,
        title_justify="left",
        box=SIMPLE_HEAD if any(table.columns) else None,
        header_style="dim",
        show_header=any(table.columns),
        show_edge=False,
        padding=(0, 1, 0, 1) if not any(table.columns) else (0, 1, 0, 0),
    )
    for i, (name, side) in enumerate(zip(table.columns, table.align, strict=True)):
        drawn.add_column(
            Text(printable(name)),
            justify="right" if side == "r" else "left",
            overflow="fold",
            no_wrap=side == "r",
            style="bold" if i == 0 else "",
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn


def _fitting(table: Table, width: int) -> Table:
    """The table without as many of its spare columns as it takes to fit into ``width``."""
    for name in table.spare:
        widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
        if sum(widths) + 2 * len(widths) <= width:
            break
        gone = table.columns.index(name)
        table = table._replace(
            columns=table.columns[:gone] + table.columns[gone + 1 :],
            align=table.align[:gone] + table.align[gone + 1 :],
            rows=[row[:gone] + row[gone + 1 :] for row in table.rows],
        )
    return table


def print_json(value: Any) -> None:
    """Print ``value`` as standard JSON: not-a-number and infinity become strings, paths their text."""
    print(json.dumps(_standard(value), indent=2, ensure_ascii=False, allow_nan=False))


def _standard(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _standard(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_standard(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

"""``dlrun predict RUN INPUT...``: predictions for files, as a table here and as CSV on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.shared import reporting, take_run
from dlrun.cli.tables import Table, print_json, print_tables
from dlrun.cli.text import number, printable
from dlrun.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments

SHOWN = 20  # rows on the screen, and
COLUMNS = 14  # columns (one of a hundred classes each); the file has them all


def run(arguments: Arguments) -> int:
    """Predict, print the first rows and name the file with all of them."""
    path, inputs, trusted = take_run(arguments)
    if not inputs:
        raise ConfigError("'dlrun predict' wants an INPUT after the run; write 'dlrun predict last FILE'")
    files = [Path(text).expanduser() for text in inputs]
    for file in files:
        if not file.exists():
            raise DataError(f"there is no file or folder '{file}' to predict from")
    output = arguments.text("--output")
    with reporting(arguments) as reporter:
        from dlrun.trained import predict

        predictions = predict(path, files, output=Path(output) if output else None, reporter=reporter, trusted=trusted)
    if arguments.flag("--json"):
        print_json({"path": predictions.path, "predictions": predictions.rows})
        return 0
    print_tables([table(predictions.rows)])
    more = len(predictions.rows) - SHOWN
    print(f"{f'and {more:,} more, ' if more > 0 else ''}all in {printable(predictions.path)}")
    return 0


def table(rows: list[dict[str, object]]) -> Table:
    """The first rows and columns; a column of numbers is aligned to the right."""
    names = list(dict.fromkeys(name for row in rows[:SHOWN] for name in row))[:COLUMNS]
    shown = [tuple(number(row.get(name)) for name in names) for row in rows[:SHOWN]]
    align = "".join(
        "r" if all(isinstance(row.get(name), int | float) for row in rows[:SHOWN]) else "l" for name in names
    )
    return Table("predictions", tuple(names), align, shown, spare=tuple(reversed(names[2:])))

"""``dlrun predict RUN [INPUT...]``: what a run's network answers, on the screen and in a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.shared import importing, take_run
from dlrun.cli.tables import Table, print_json, print_tables
from dlrun.cli.text import number, printable
from dlrun.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments

SHOWN = 20  # rows on the screen, and
COLUMNS = 14  # columns (one of a hundred classes each); the file has them all
MOST_COUNT, MOST_LENGTH, MOST_SEED = 10_000, 100_000, 2**63 - 1


def run(arguments: Arguments) -> int:
    """Predict, print the first rows or the text, and name the file with all of it."""
    path, inputs, trusted = take_run(arguments)
    files = [Path(text).expanduser() for text in inputs]
    for file in files:
        if not file.exists():
            raise DataError(f"there is no file or folder '{file}' to predict from")
    to, as_json = arguments.text("--output"), arguments.flag("--json")
    if to == "-" and as_json:
        raise ConfigError("--json and --output - both write to standard output; leave one of them out")
    length = arguments.number("--length", least=1, most=MOST_LENGTH)
    top_k = arguments.number("--top-k", least=1)
    count = arguments.number("--count", least=1, most=MOST_COUNT)
    seed = arguments.number("--seed", least=0, most=MOST_SEED)
    heat = temperature(arguments)
    with importing():
        from dlrun.predict import Wishes, predict

    wishes = Wishes(arguments.text("--prompt"), length, heat, top_k, count, seed)
    output = Path(to).expanduser() if to else None
    found = predict(path, files, output=output, wishes=wishes, trusted=trusted)
    if as_json:
        said = {"text": found.text, "pictures": found.pictures}
        print_json(
            {"path": found.path, "predictions": found.rows} | {name: some for name, some in said.items() if some}
        )
        return 0
    if to == "-":
        print(found.text or "", end="\n" if found.text else "")
        return 0
    if found.text is not None:
        print("\n".join(map(printable, found.text.split("\n"))))
    if found.rows:
        print_tables([table(found.rows)])
    more = len(found.rows) - SHOWN
    print(f"{f'and {more:,} more, ' if more > 0 else ''}all in {printable(found.path)}")
    return 0


def temperature(arguments: Arguments) -> float | None:
    """The number after ``--temperature``; ConfigError when it is none, or below 0."""
    text = arguments.text("--temperature")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"--temperature wants a number of at least 0, such as 0.8, not '{text}'")
    return value


def table(rows: list[dict[str, object]]) -> Table:
    """The first rows and columns; a column of numbers is aligned to the right."""
    names = list(dict.fromkeys(name for row in rows[:SHOWN] for name in row))[:COLUMNS]
    shown = [tuple(number(row.get(name)) for name in names) for row in rows[:SHOWN]]
    align = "".join(
        "r" if all(isinstance(row.get(name), int | float) for row in rows[:SHOWN]) else "l" for name in names
    )
    return Table("predictions", tuple(names), align, shown, spare=tuple(reversed(names[2:])))

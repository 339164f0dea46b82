"""``dlrun eval RUN``: measure a run's best checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlrun.cli.shared import importing, no_more, reporting, take_run
from dlrun.cli.tables import print_json

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments


def run(arguments: Arguments) -> int:
    """Measure one split; the reporter prints the table, ``--json`` the metrics."""
    path, rest, trusted = take_run(arguments)
    no_more("eval", rest, "one RUN")
    split = arguments.text("--split")
    with reporting(arguments) as reporter:
        with importing():
            from dlrun.trained import evaluate

        metrics = evaluate(path, split=split, reporter=reporter, trusted=trusted)
    if arguments.flag("--json"):
        part = next(iter(metrics)).partition("/")[0]
        print_json({"path": path, "split": part, "metrics": metrics})
    return 0

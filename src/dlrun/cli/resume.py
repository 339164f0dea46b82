"""``dlrun resume RUN``: go on in the same directory, to the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlrun.cli.shared import finish, reporting, take_run

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments


def run(arguments: Arguments) -> int:
    """Resume; a finished run says so and keeps its outcome."""
    path, overrides, trusted = take_run(arguments)
    with reporting(arguments) as reporter:
        from dlrun.resume import resume

        outcome = resume(path, overrides=overrides, reporter=reporter, trusted=trusted)
    return finish(arguments, outcome)

"""``dlrun resume RUN``: go on in the same directory, to the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlrun.cli import ranks
from dlrun.cli.shared import finish, importing, reporting, take_run

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments
    from dlrun.distributed.group import Together


def run(arguments: Arguments) -> int:
    """Resume; a finished run says so and keeps its outcome."""
    path, overrides, trusted = take_run(arguments)
    world = ranks.world()
    if world is not None:
        return ranks.take_part(world, arguments, trusted, lambda peers: _resume(arguments, peers))
    with importing():
        from dlrun.resume import devices_of

    devices = devices_of(path, overrides, trusted)
    return ranks.start(devices, arguments) if devices > 1 else _resume(arguments, None)


def _resume(arguments: Arguments, peers: Together | None) -> int:
    path, overrides, trusted = take_run(arguments)
    with reporting(arguments) as reporter:
        from dlrun.resume import resume

        together: dict[str, Any] = {} if peers is None else {"peers": peers}
        outcome = resume(path, overrides=overrides, reporter=reporter, trusted=trusted, **together)
    return finish(arguments, outcome)

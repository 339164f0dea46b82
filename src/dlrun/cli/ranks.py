"""Commands that train on several devices: starting their processes, and being one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlrun.cli.grammar import Arguments
    from dlrun.distributed.group import Together
    from dlrun.distributed.world import World


def world() -> World | None:
    """The processes among which torchrun or Slurm has started this one; None when it is alone."""
    from dlrun.distributed.world import find_world

    return find_world(os.environ)


def start(devices: int, arguments: Arguments) -> int:
    """Start the same command on so many processes, and wait for its end."""
    from dlrun.cli.failures import say
    from dlrun.distributed.launch import launch

    code, sentence = launch(devices, arguments.command)
    if sentence:
        say(sentence)
    return code


def take_part(world: World, arguments: Arguments, trusted: Sequence[str], first: Callable[[Together], int]) -> int:
    """Do this process's part: the first one does ``first``, the others follow it; their exit code is 0.

    One process tells the user why a run fails: the first to know.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a process that ends is no news for its sockets
    from dlrun.distributed.joining import joined

    with joined(world) as peers:
        try:
            if peers.rank == 0:
                code = first(peers)
                peers.release()
                return code
            from dlrun.follow import follow

            follow(peers, trusted)
        except BaseException as error:
            _end(peers, error, arguments.flag("--debug"))
    return 0


def _end(peers: Together, error: BaseException, debug: bool) -> None:
    """End the process at once: what would be tidied up at its end waits for the others."""
    from dlrun.cli.failures import report
    from dlrun.errors import DlrunError

    known = isinstance(error, DlrunError)
    error = error if known else peers.lost(patience=1.0) or error
    code = int(getattr(error, "exit_code", 1))
    if peers.messages.failure() is None and peers.messages.fail(str(error) or type(error).__name__, code):
        with suppress(BaseException):
            code = report(error, debug=debug)
    peers.last_words()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

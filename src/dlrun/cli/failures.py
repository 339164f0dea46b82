"""From an exception to one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import TextIO

from dlrun.errors import DlrunError, MemoryExhaustedError, StorageError

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the disk is read-only",
    errno.EDQUOT: "the disk quota is used up",
}
_CPU_MEMORY = ("DefaultCPUAllocator", "not enough memory", "CUDA out of memory")


def report(error: BaseException, *, debug: bool) -> int:
    """Print what the user needs to know of ``error`` and return the exit code; with ``debug`` it is raised again.

    A mistake gets its sentence. Anything unforeseen is a bug of dlrun and keeps its traceback.
    """
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, BrokenPipeError):  # 'dlrun runs | head': nothing to say, nobody to hear it
        hush(sys.stdout)
        return 141
    if debug:
        raise error
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return 130
    known = _known(error)
    if known is None:
        traceback.print_exception(error)
        say("this is a bug of dlrun; please report it with the command and the lines above")
        return 1
    say(str(known))
    return known.exit_code


def print_on(stream: TextIO, text: str) -> None:
    """Print a line of what goes on; work goes on, too, where its reader has left ('dlrun train | head')."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        hush(stream)


def hush(stream: object) -> None:
    """The reader of ``stream`` has left: what is written to it goes nowhere from here on, and fails nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _number(stream))


def say(sentence: str) -> None:
    """Print ``error: sentence`` on standard error, with the word in red on a terminal."""
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    print("\033[31merror:\033[0m" if red else "error:", shown, file=sys.stderr)


def _known(error: BaseException) -> DlrunError | None:
    if isinstance(error, DlrunError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f" at '{error.filename}'" if error.filename else ""
        return StorageError(f"{_DISK[error.errno]}{where}; free some space or choose another place with --outputs DIR")
    if _memory(error):
        return MemoryExhaustedError(
            "the memory is used up; lower trainer.batch_size (and raise trainer.accumulate to keep the same gradient)"
        )
    return None


def _memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, the accelerator's (by its class's name), the CPU's (by its text)."""
    if isinstance(error, MemoryError) or any(c.__name__ == "OutOfMemoryError" for c in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MEMORY)


def _number(stream: object) -> int:
    """The file descriptor of ``stream``; standard output's when it has none of its own."""
    try:
        return int(stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return 1

"""The dispatcher: finds the command, imports only that one, and turns every failure into an exit code.

Exit codes: 0 done, 1 a bug, 2 config, 3 data, 4 checkpoint, 5 locked, 6 diverged, 7 storage, 8 out of memory,
9 refused, 128+n signal n.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dlrun`` with ``argv`` (by default the process's own arguments) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (>&-): there is nobody to tell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - open for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot spell is shown escaped, never a crash
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except BaseException as error:
        from dlrun.cli.failures import report

        return report(error, debug="--debug" in words)
    return code


def entry() -> None:
    """The console script: ``main``, then an end without the half second that unloading torch takes.

    A thread that waits for the others spins for a moment and then sleeps. GNU OpenMP's default is to spin a hundred
    times longer, and where another process computes on one of two cores, a small network waits for its second thread:
    20 epochs of the default run, 0.3 s alone, took 2.1 to 2.9 s with 10,000 spins, 1.1 to 1.3 with these, 0.8 with
    1,000 and 0.4 with none. On a quiet machine 10,000 and these were equal, 1,000 cost a third more for batches of 32,
    and none three times as much.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # read once, when torch loads its OpenMP library
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _dispatch(words: list[str]) -> int:
    from dlrun.cli.commands import BY_NAME, overview

    if words[:1] == ["__complete"]:
        from dlrun.cli.complete import answer

        return answer(words[1:])
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in ("help", "--help", "-h"):
        print(overview())
        return 0
    if words[0] in ("--version", "-V"):
        from dlrun import __version__

        print(f"dlrun {__version__}")
        return 0
    name, rest = _command(words)
    if name not in BY_NAME:
        from dlrun.errors import ConfigError, did_you_mean

        raise ConfigError(f"'{name}' is no command of dlrun{did_you_mean(name, BY_NAME)}")
    return _run(name, rest)


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command's name and the other words; an override or an option in its place stands for ``train``."""
    from dlrun.cli.commands import BY_NAME

    first = words[0]
    if first.startswith("-"):
        named = [i for i, word in enumerate(words) if word in BY_NAME]
        if named:
            return words[named[0]], words[: named[0]] + words[named[0] + 1 :]
    if "=" in first or first[0:1] in ("-", "+", "~"):
        return "train", words
    return first, words[1:]


def _run(name: str, words: list[str]) -> int:
    from dlrun.cli.commands import BY_NAME, explain
    from dlrun.cli.grammar import parse

    command = BY_NAME[name]
    arguments = parse(command, words)
    if arguments.flag("--help"):
        print(explain(command))
        if command.takes == "overrides":
            from dlrun.cli.list_options import names

            print(names(arguments))
        return 0
    from importlib import import_module

    code: int = import_module(f"dlrun.cli.{command.module}").run(arguments)
    return code

"""What several commands do the same way: trusted packages, folders, and finding the run that is meant."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlrun.cli.grammar import Arguments
    from dlrun.run import Outcome
    from dlrun.training.callbacks import Reporter


def take_trust(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Split ``trust=[a,b]`` off the words: trust is given by the person at the keyboard and never by a file."""
    rest = [word for word in words if not word.startswith("trust=")]
    trusted: list[str] = []
    for word in words:
        if word.startswith("trust="):
            names = word.removeprefix("trust=").removeprefix("[").removesuffix("]").split(",")
            trusted += [name.strip() for name in names]
    for name in trusted:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"trust takes names of Python packages, not '{name}'; write trust=[mypkg]")
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ConfigError(
                f"trust=[{name}]: Python's own library cannot be trusted for a config; name your own package"
            )
    return rest, tuple(dict.fromkeys(trusted))


def config_dirs(arguments: Arguments) -> list[Path]:
    """The folders given by ``--config-dir``."""
    return [Path(text).expanduser() for text in arguments.texts("--config-dir")]


def outputs(arguments: Arguments) -> Path:
    """The folder of runs."""
    from dlrun.tracking.run_directory import outputs_root

    return outputs_root(arguments.text("--outputs"))


def take_run(arguments: Arguments) -> tuple[Path, list[str], tuple[str, ...]]:
    """The run meant by the first word, the words after it, and the trusted packages."""
    from dlrun.tracking.run_directory import find_run

    words, trusted = take_trust(arguments.words)
    command = arguments.command[0]
    if not words:
        raise ConfigError(
            f"'dlrun {command}' wants a RUN: a directory, a unique part of a name, or last ('dlrun runs' lists them)"
        )
    return find_run(words[0], outputs(arguments)), words[1:], trusted


def no_more(command: str, words: list[str], takes: str) -> None:
    """Refuse words that a command has no use for."""
    if words:
        raise ConfigError(f"'dlrun {command}' takes {takes}; '{words[0]}' is too many ('dlrun {command} --help')")


@contextmanager
def reporting(arguments: Arguments) -> Iterator[Reporter]:
    """A reporter whose live display ends however the command ends."""
    from dlrun.console import make_reporter

    reporter = make_reporter(to_stderr=arguments.flag("--json"))
    try:
        yield reporter
    finally:
        reporter.stop()


@contextmanager
def importing() -> Iterator[None]:
    """Import torch without the garbage collector, and keep what that made out of its sight from then on.

    Torch's modules are half a million objects that stay: looking through them again and again takes a sixth of the
    import, and a tenth of a second each time the collector looks through everything later.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def finish(arguments: Arguments, outcome: Outcome) -> int:
    """Print the outcome as JSON where that was asked for, and return the exit code."""
    if arguments.flag("--json"):
        from dlrun.cli.tables import print_json

        sys.stderr.flush()
        print_json(
            {"path": outcome.path, "status": outcome.status, "exit_code": outcome.exit_code, "metrics": outcome.metrics}
        )
    return outcome.exit_code

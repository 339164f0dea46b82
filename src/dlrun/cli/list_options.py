"""``dlrun list [GROUP...]``: what can be picked, one line of meaning each, read from the YAML's own comment."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from dlrun.cli.shared import config_dirs
from dlrun.cli.tables import Table, print_json, print_tables
from dlrun.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments


def run(arguments: Arguments) -> int:
    """Print the options of the groups asked for, or of all."""
    from dlrun.config import groups

    known = groups(config_dirs(arguments))
    for name in arguments.words:
        if name not in known:
            raise ConfigError(f"there is no group '{name}'{did_you_mean(name, known)}")
    wanted = {name: known[name] for name in (arguments.words or known)}
    if arguments.flag("--json"):
        print_json({group: {option.name: option.meaning for option in options} for group, options in wanted.items()})
        return 0
    width = max((len(option.name) for options in wanted.values() for option in options), default=0)
    print_tables(
        Table(group, ("", ""), "ll", [(option.name.ljust(width), option.meaning) for option in options])
        for group, options in wanted.items()
    )
    return 0


def names(arguments: Arguments) -> str:
    """The groups and the names of their options, for the help of commands that take overrides."""
    from dlrun.config import groups
    from dlrun.config_words import SWEEP_KEYS

    lines = ["", "groups ('dlrun list GROUP' says what each option means):"]
    left_out = () if arguments.command[:1] == ["sweep"] else SWEEP_KEYS
    for group, options in groups(config_dirs(arguments)).items():
        if group in left_out:
            continue
        text = " ".join(option.name for option in options)
        lines += textwrap.wrap(text, 100, initial_indent=f"  {group:13} ", subsequent_indent=" " * 16)
    return "\n".join(lines)

"""The words after ``dlrun``: one table per command from which parsing, ``--help`` and tab completion are read.

Hydra's overrides (``model=cnn``, ``+x=1``, ``~y``) never start with a dash, so options may stand anywhere among them.
Nothing but the standard library's light modules is imported here: ``dlrun --help`` has to be instant.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Option(NamedTuple):
    """One option: its spellings, the name of its value (empty for a switch, in brackets if it may go without)."""

    flags: tuple[str, ...]
    value: str
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The long spelling, by which a command asks for it."""
        return self.flags[0]

    @property
    def optional(self) -> bool:
        """Whether it may stand without its value."""
        return self.value.startswith("[")


class Command(NamedTuple):
    """One command: the module in ``dlrun.cli`` that runs it, and what ``--help`` says of it.

    ``takes`` tells what its plain words are: ``overrides``, ``run``, ``run inputs``, ``run overrides``, ``groups``,
    ``shell`` or nothing.
    """

    name: str
    module: str
    usage: str
    meaning: str
    takes: str
    options: tuple[Option, ...]
    text: str = ""


class Arguments:
    """What stood on the command line: the plain words in order, the options, and the whole of it for the record."""

    def __init__(self, words: list[str], options: dict[str, list[str]], command: list[str]) -> None:
        self.words = words
        self.command = command
        self._options = options

    def flag(self, name: str) -> bool:
        """Whether the option was given."""
        return name in self._options

    def text(self, name: str) -> str | None:
        """The option's last value, or None."""
        return self._options[name][-1] if name in self._options else None

    def texts(self, name: str) -> list[str]:
        """Every value of a repeatable option."""
        return self._options.get(name, [])

    def number(self, name: str, *, least: int, most: int | None = None) -> int | None:
        """The option's value as a whole number, or None; ConfigError when it is none or out of range."""
        text = self.text(name)
        if text is None:
            return None
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= (most or int(text)):
            raise _config_error(f"{name} wants a whole number {span}, not '{text}'")
        return int(text)


def parse(command: Command, words: list[str]) -> Arguments:
    """Sort ``words`` into plain words and options; ConfigError for an unknown option or a missing value."""
    spellings = {flag: option for option in command.options for flag in option.flags}
    plain: list[str] = []
    options: dict[str, list[str]] = {}
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word == "--":
            plain.extend(rest)
            rest.clear()
        elif word == "-" or not word.startswith("-"):
            plain.append(word)
        else:
            flag, equals, value = word.partition("=")
            option = spellings.get(flag)
            if option is None:
                raise _unknown_option(command, flag, spellings)
            options.setdefault(option.name, []).append(_value(command, option, equals, value, rest))
    return Arguments(plain, options, [command.name, *words])


def _value(command: Command, option: Option, equals: str, value: str, rest: deque[str]) -> str:
    """The value of ``option``: after its ``=``, else the next word; a switch has none."""
    if option.optional and not equals and (not rest or is_override(rest[0])):
        return ""
    if not option.value:
        if equals:
            raise _config_error(f"{option.name} takes no value; write 'dlrun {command.name} {option.name}'")
        return ""
    found = value if equals else rest.popleft() if rest else None
    if not found:
        raise _config_error(f"{option.name} wants a value; write 'dlrun {command.name} {option.name} {option.value}'")
    if option.choices and found not in option.choices:
        from dlrun.errors import did_you_mean

        raise _config_error(f"{option.name} cannot be '{found}'{did_you_mean(found, option.choices)}")
    return found


def is_override(word: str) -> bool:
    """Whether a word can only be an override or an option, and not the value that an option may go without."""
    return "=" in word or word[0:1] in ("-", "+", "~")


def _unknown_option(command: Command, flag: str, spellings: dict[str, Option]) -> Exception:
    from dlrun.errors import nearest

    close = nearest(flag, spellings)
    hint = f"did you mean '{close}'?" if close else f"'dlrun {command.name} --help' names them"
    return _config_error(f"'dlrun {command.name}' has no option '{flag}'; {hint}")


def _config_error(sentence: str) -> Exception:
    from dlrun.errors import ConfigError

    return ConfigError(sentence)

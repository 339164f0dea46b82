"""The hidden ``dlrun __complete LINE``: what the word under the cursor can become.

Never imports torch, never fails aloud.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.commands import BY_NAME, COMMANDS
from dlrun.cli.grammar import Command, Option

if TYPE_CHECKING:
    from collections.abc import Sequence

# Keys whose value is a path, and those of them that hold a folder.
PATH_KEYS = re.compile(r"^\+{0,2}data\.(path|root|splits)=")
Candidates = list[tuple[str, str]]  # (the whole word, its meaning)


def answer(words: Sequence[str]) -> int:
    """Print the candidates for the line up to the cursor, one per line."""
    line = words[0] if words else ""
    try:
        found = candidates(line)
    except Exception:  # a half-typed line is often wrong; a completion that speaks up would garble it
        return 0
    for word, meaning in found:
        if word.isprintable():
            print(f"{word}\t{meaning}" if meaning else word)
    return 0


def candidates(line: str) -> Candidates:
    """Candidates for the last word of ``line``, which starts with the program's own name."""
    words = line.split()[1:]
    current = "" if not line or line[-1].isspace() or not words else words.pop()
    if not words:
        found = [(c.name, c.meaning) for c in COMMANDS] + [("help", "explain a command")]
        found += [(flag, "") for flag in ("--help", "--version") if current]
        if "=" in current:  # 'dlrun model=<TAB>': train is meant
            return _overrides([], current, [])
        return _starting(found, current)
    if "=" in words[0] and words[0] not in BY_NAME:
        words.insert(0, "train")
    command = BY_NAME.get(words[0])
    if command is None:
        return _starting([(c.name, c.meaning) for c in COMMANDS], current) if words == ["help"] else []
    return _of_command(command, words[1:], current)


def _of_command(command: Command, words: list[str], current: str) -> Candidates:
    plain, given, waiting = _sort(command, words)
    if waiting is not None:
        return _value(waiting, current, given)
    flag, equals, value = current.partition("=")
    option = next((option for option in command.options if flag in option.flags), None)
    if equals and option is not None:
        return [(f"{flag}={word}", meaning) for word, meaning in _value(option, value, given)]
    if current.startswith("-"):
        return _starting([(option.name, option.meaning) for option in command.options], current)
    folders = [Path(text).expanduser() for text in given.get("--config-dir", [])]
    kind = command.takes
    if kind == "overrides" or (kind == "run overrides" and plain):
        return _overrides(plain, current, folders, sweep=command.name == "sweep")
    if kind.startswith("run") and not plain:
        return _runs(current, given)
    if kind == "run inputs":
        return _paths(current)
    if kind == "groups":
        return _groups(current, folders)
    return _starting([(name, "") for name in ("bash", "zsh", "fish")], current) if kind == "shell" and not plain else []


def _sort(command: Command, words: list[str]) -> tuple[list[str], dict[str, list[str]], Option | None]:
    """The plain words, the options with their values, and the option whose value is being typed."""
    spellings = {flag: option for option in command.options for flag in option.flags}
    plain: list[str] = []
    given: dict[str, list[str]] = {}
    waiting: Option | None = None
    for word in words:
        flag, equals, value = word.partition("=")
        if waiting is not None:
            given.setdefault(waiting.name, []).append(word)
            waiting = None
        elif flag in spellings:
            option = spellings[flag]
            if equals:
                given.setdefault(option.name, []).append(value)
            waiting = option if option.value and not option.optional and not equals else None
        else:
            plain.append(word)
    return plain, given, waiting


def _value(option: Option, current: str, given: dict[str, list[str]]) -> Candidates:
    if option.choices:
        return _starting([(choice, "") for choice in option.choices], current)
    if option.value in ("DIR", "FILE"):
        return _paths(current, folders_only=option.value == "DIR")
    if option.value == "SWEEP":
        return _sweeps(current, given)
    if option.name == "--package":
        from dlrun.config import groups

        return _starting([(group, "") for group in groups()], current)
    if option.name == "--sort":
        from dlrun.cli.runs import COLUMNS

        return _starting([(sign + name, "") for sign in ("", "-") for name in (*COLUMNS, "test/accuracy")], current)
    return []


def _overrides(words: list[str], current: str, folders: list[Path], sweep: bool = False) -> Candidates:
    """Groups, options and keys, by Hydra; paths for the keys that hold one."""
    path = PATH_KEYS.match(current)
    if path:
        return [(path[0] + found, "") for found, _ in _paths(current[path.end() :])]
    from dlrun.config import completions, groups

    settled = [word for word in words if not word.startswith("trust=")]
    found = completions(" ".join([*settled, current]), folders, sweep=sweep)
    group, equals, _ = current.partition("=")
    if not equals:
        return [(word, "") for word in found]
    meanings = {f"{group}={option.name}": option.meaning for option in groups(folders).get(group.lstrip("+"), [])}
    return [(word, meanings.get(word, "")) for word in found]


def _runs(current: str, given: dict[str, list[str]]) -> Candidates:
    """Runs, newest first; a sweep ends in a slash, and the next Tab goes into it."""
    from dlrun.tracking.folders import is_sweep, trial_places

    folders = _newest(given)
    sweep, slash, _ = current.partition("/")
    inside = next((path for path in folders if slash and path.name == sweep and is_sweep(path)), None)
    if inside is not None:
        return _starting(sorted((place.name, "") for place in trial_places(inside)), current)
    if slash or current.startswith(("~", ".")):
        return _paths(current, folders_only=True)
    named = [(f"{path.name}/" if is_sweep(path) else path.name, path.parent.name) for path in folders]
    return _starting([("last", "the newest run"), *named], current)


def _sweeps(current: str, given: dict[str, list[str]]) -> Candidates:
    from dlrun.tracking.folders import is_sweep

    if "/" in current or current.startswith(("~", ".")):
        return _paths(current, folders_only=True)
    named = [(path.name, path.parent.name) for path in _newest(given) if is_sweep(path)]
    return _starting([("last", "the newest sweep"), *named], current)


def _newest(given: dict[str, list[str]]) -> list[Path]:
    """The folders of runs and sweeps, newest first."""
    from dlrun.tracking.run_directory import outputs_root

    root = outputs_root(given["--outputs"][-1] if "--outputs" in given else None)
    return sorted((p for p in root.glob("*/*") if p.is_dir()), key=lambda p: (p.parent.name, p.name), reverse=True)


def _groups(current: str, folders: list[Path]) -> Candidates:
    from dlrun.config import groups

    return _starting([(name, f"{len(options)} options") for name, options in groups(folders).items()], current)


def _paths(current: str, *, folders_only: bool = False) -> Candidates:
    """Files and folders that begin as typed; a folder ends in a slash so that the next Tab goes into it."""
    typed, start = os.path.split(current)
    folder = Path(typed).expanduser() if typed else Path()
    prefix = current[: len(current) - len(start)]
    found: Candidates = []
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith(".")):
            if entry.is_dir():
                found.append((f"{prefix}{entry.name}/", ""))
            elif not folders_only:
                found.append((prefix + entry.name, ""))
    return found


def _starting(found: Candidates, current: str) -> Candidates:
    return [(word, meaning) for word, meaning in found if word.startswith(current)]

"""The words of the command line: read by Hydra's grammar, and checked one by one against what they change.

No torch here. ``config.py`` composes from them; ``sweeps/space.py`` reads those that name several values.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from dlrun.errors import ConfigError, did_you_mean
from dlrun.value_types import check_type

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep, Override
    from omegaconf import DictConfig

SWEEP_KEYS = ("sweep", "launcher", "pruner")  # how a sweep is searched and run: words of `dlrun sweep` alone


def head(word: str) -> str:
    """The first part of a word's key: ``optimizer`` of ``++optimizer.lr=0.1``."""
    key = word.partition("=")[0].lstrip("+~")
    for mark in "@/.":
        key = key.partition(mark)[0]
    return key


def parser(loader: ConfigLoaderImpl) -> OverridesParser:
    """Hydra's parser, with ``log(low,high)`` for its ``tag(log,interval(low,high))``."""
    from hydra._internal.grammar.grammar_functions import interval, tag
    from hydra.core.override_parser.overrides_parser import OverridesParser

    @wraps(interval)  # Hydra checks the arguments against the signature
    def log(*args: float, **named: float) -> IntervalSweep:
        return tag("log", interval(*args, **named))

    made = OverridesParser.create(config_loader=loader)
    made.functions.register(name="log", func=log)
    return made


def parse(words: Sequence[str], loader: ConfigLoaderImpl) -> list[Override]:
    """The words as Hydra understands them.

    Raises:
        ConfigError: a word that is no override, or one for Hydra itself.
    """
    from hydra.errors import HydraException

    reader = parser(loader)
    parsed: list[Override] = []
    for text in words:
        try:
            parsed += reader.parse_overrides([text])
        except (HydraException, ValueError) as error:
            reason = str(error).strip().splitlines()[0].removeprefix("LexerNoViableAltException: ")
            raise ConfigError(
                f"cannot read '{text}' ({reason}); overrides look like model=cnn or optimizer.lr=0.01, "
                "and words with spaces, commas or brackets need quotes: 'data.path=\"my file.csv\"'"
            ) from error
        if head(parsed[-1].key_or_group) == "hydra":
            raise ConfigError(f"'{text}': keys under hydra are closed; dlrun owns the run directory (--outputs DIR)")
    return parsed


def refuse_sweeps(parsed: Sequence[Override]) -> None:
    """Refuse words that only a sweep can have.

    Raises:
        ConfigError: names the command that takes the word.
    """
    for override in parsed:
        line = str(override.input_line)
        if head(line) in (*SWEEP_KEYS, "seeds"):
            raise ConfigError(f"'{line}' is for a sweep: dlrun sweep {shlex.quote(line)}")
        if override.is_sweep_override():
            raise ConfigError(
                f"'{line}' names several values; for one run of each: dlrun sweep {shlex.quote(line)} "
                "(or dlrun train --multirun)"
            )


def is_choice(override: Override, loader: ConfigLoaderImpl) -> bool:
    """Whether the word picks an option of a config group, and does not set a value."""
    return override.package is not None or bool(loader.repository.group_exists(override.key_or_group))


def check_option(loader: ConfigLoaderImpl, choice: Override) -> None:
    """Refuse an option that its group has not."""
    group, name = choice.key_or_group, choice.value()
    names = [option for option in loader.get_group_options(group) if option]
    wanted = name if isinstance(name, list) else [name]
    for option in wanted:
        if option is None and not choice.is_delete():
            raise ConfigError(f"{group}=null: leave a group out with '~{group}' instead")
        if option is not None and str(option) not in names:
            hint = did_you_mean(str(option), names)
            raise ConfigError(f"{group}={option}: the group '{group}' has no '{option}'{hint} (dlrun list {group})")


def find_key(base: DictConfig, key: str) -> tuple[Any, str | None]:
    """The node at a dotted key (None where it is not known yet), and the first part of the key that is not there."""
    from omegaconf import DictConfig, OmegaConf

    node: Any = base
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return node, ".".join([*walked, part])
        walked.append(part)
        unknown = OmegaConf.is_missing(node, part) or OmegaConf.is_interpolation(node, part)
        node = None if unknown else node[part]
    return node, None


def check_value(base: DictConfig, override: Override, loader: ConfigLoaderImpl) -> None:
    """Refuse a key that is not there, and a value of another type than the one it replaces."""
    from omegaconf import DictConfig

    key = override.key_or_group
    if head(key) == "choices":
        raise ConfigError(f"{key}: this is what was picked; pick with GROUP=OPTION (dlrun list shows every group)")
    node, missing = find_key(base, key)
    if missing is not None:
        if override.is_add() or override.is_force_add():
            return
        where, _, part = missing.rpartition(".")
        names = [str(n) for n in node if n not in ("_target_", "choices")] if isinstance(node, DictConfig) else []
        names += [] if where else [g for g in loader.get_group_options("") if g and g not in SWEEP_KEYS]
        raise ConfigError(_unknown_key(key, part, where, sorted(set(names))))
    if override.is_delete() or override.is_add():
        return
    check_type(key, override.value(), node)


def _unknown_key(key: str, part: str, where: str, names: list[str]) -> str:
    place = f"'{where}' has no key '{part}'" if where else f"there is no group or key '{part}'"
    close = did_you_mean(part, names)
    if head(key) in SWEEP_KEYS:
        hint = ""
    elif where:
        hint = f" (dlrun show prints every key; +{key}=... adds one)"
    else:
        hint = " (dlrun list shows every group)"
    return f"{key}: {place}{close}{hint}"

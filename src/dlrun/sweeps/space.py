"""What is swept: the words of ``dlrun sweep`` as a Space. Hydra's grammar on any key; no torch, no Optuna.

Differs from Hydra's own sweeper in: 1. ranges of floats are counted in decimals: range(0,1,step=0.1) has 0.3 and not
0.30000000000000004; 2. shuffle(...) gives the same order each time; 3. every value is written so that it reads back
as the value it is: str(1,2) gives '1' and '2' in quotes; 4. log(low,high) is tag(log,interval(low,high)); 5. seeds are
replicates of every point and never an axis: to rank by seed would be to pick cherries.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config import open_loader, pick
from dlrun.config_words import SWEEP_KEYS, find_key, head, is_choice, parse, parser
from dlrun.errors import ConfigError
from dlrun.sweeps.nouns import Axis, Space

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

SEED_KEYS = ("seed", "trainer.seed")
MOST_VALUES = 100_000  # of one list or range
MOST_SEEDS = 10_000


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that say what is swept, and those that say how: of ``sweep``, ``pruner`` and ``launcher``."""
    how = [word for word in words if head(word) in SWEEP_KEYS]
    return [word for word in words if head(word) not in SWEEP_KEYS], how


def read_space(words: Sequence[str], config_dirs: Sequence[Path] = (), shipped: Path | None = None) -> Space:
    """The space that the words span.

    Args:
        words: overrides in Hydra's sweep grammar, ``seeds=N`` and ``seed=...``; see ``split_words`` for the others.
        config_dirs: the user's own folders of config files.
        shipped: a frozen copy of dlrun's own configs, to use in their place.

    Raises:
        ConfigError: a word that cannot be read, an empty or impossible list of values, a key that is given twice.
    """
    loader = open_loader(config_dirs, shipped)
    counts = [word for word in words if head(word) == "seeds"]
    parsed = parse([word for word in words if word not in counts], loader)
    seeds = [override for override in parsed if override.key_or_group in SEED_KEYS and not override.is_delete()]
    rest = [override for override in parsed if override not in seeds]
    reader = parser(loader)
    fixed: list[str] = []
    axes: list[Axis] = []
    for override in rest:
        axis = _axis(override, loader, reader)
        if axis is None:
            fixed.append(_fixed_word(override, reader))
        elif len(axis.values) == 1:
            fixed.append(f"{axis.prefix}{axis.key}={axis.values[0]}")
        else:
            axes.append(axis)
    _refuse_twice(rest, axes)
    first = _default_seed(rest, loader, axes) if not seeds else 0
    return Space(
        tuple(fixed), tuple(sorted(axes, key=lambda axis: not axis.group)), _seeds(seeds, counts, reader, first)
    )


def _refuse_twice(parsed: Sequence[Override], axes: Sequence[Axis]) -> None:
    """Refuse a swept key that another word gives as well."""
    keys = [_key(override) for override in parsed]
    for axis in axes:
        if keys.count(axis.key) > 1:
            raise ConfigError(f"{axis.key} is given twice; name all its values at once: {axis.key}=a,b,c")


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _axis(override: Override, loader: ConfigLoaderImpl, reader: OverridesParser) -> Axis | None:
    """The axis that a word spans; None when it names one value only."""
    from hydra.core.override_parser.types import IntervalSweep

    if not override.is_sweep_override():
        return None
    line, key, group = str(override.input_line), _key(override), is_choice(override, loader)
    if override.is_delete():
        raise ConfigError(f"'{line}': what is left out cannot be swept; give two sweeps, one with ~{key}")
    prefix = "+" * (2 * override.is_force_add() + override.is_add())
    value = override.value()
    if isinstance(value, IntervalSweep):
        if group:
            raise ConfigError(
                f"'{line}': the options of the group '{key}' have no order; name them: {key}=a,b or glob(*)"
            )
        return _interval(line, Axis(key, prefix), value)
    values = tuple(dict.fromkeys(written(item, reader, line) for item in _values(override, group)))
    if not values:
        raise ConfigError(f"'{line}' names no value at all")
    return Axis(key, prefix, group, values)


def _interval(line: str, axis: Axis, value: IntervalSweep) -> Axis:
    low, high = value.start, value.end
    if value.tags - {"log"}:
        raise ConfigError(f"'{line}': the only tag is log, as in {axis.key}=log(1e-4,1e-1)")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"'{line}': an interval needs two finite ends")
    if low >= high:
        raise ConfigError(f"'{line}': the lower end comes first and the upper end is above it")
    log = "log" in value.tags
    if log and low <= 0:
        raise ConfigError(f"'{line}': a logarithmic scale has no {low:g}; begin above 0")
    integer = isinstance(low, int)
    return Axis(axis.key, axis.prefix, low=float(low), high=float(high), integer=integer, log=log)


def _values(override: Override, group: bool) -> Sequence[Any]:
    """The values of a list, a range or a glob, as the parser has them."""
    from hydra.core.override_parser.types import ChoiceSweep, Glob, RangeSweep

    line, value = str(override.input_line), override.value()
    if isinstance(value, Glob):
        if not group:
            raise ConfigError(f"'{line}': glob picks options of a config group; list the values of {_key(override)}")
        return [name for name in override.sweep_iterator() if name]
    assert isinstance(value, ChoiceSweep | RangeSweep)  # Hydra's grammar has no other
    if value.tags:
        raise ConfigError(f"'{line}': tags go with intervals, as in {_key(override)}=tag(log,interval(1e-4,1e-1))")
    found = list(value.list) if isinstance(value, ChoiceSweep) else _counted(line, value)
    if value.shuffle:
        random.Random(0).shuffle(found)
    return found


def _counted(line: str, value: RangeSweep) -> list[Any]:
    """The numbers of a range, without the rounding errors of binary steps."""
    parts = (value.start, value.stop, value.step)
    whole = all(isinstance(part, int) for part in parts)
    if not all(math.isfinite(part or 0) for part in parts):
        raise ConfigError(f"'{line}': a range needs finite ends")
    start, stop, step = (Decimal(repr(part)) for part in parts)
    if step == 0:
        raise ConfigError(f"'{line}': steps of 0 lead nowhere")
    if (stop - start) / step > MOST_VALUES:
        raise ConfigError(f"'{line}' has more than {MOST_VALUES:,} values; use an interval, or a larger step")
    count = max(0, math.ceil((stop - start) / step))
    return [int(start + i * step) if whole else float(start + i * step) for i in range(count)]


def written(value: Any, reader: OverridesParser, line: str = "") -> str:
    """A value as one would type it after the ``=``: it reads back as the same value.

    Raises:
        ConfigError: a value that cannot be written, such as a sweep inside a list.
    """
    from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep
    from hydra.errors import HydraException

    if isinstance(value, list):
        return "[" + ",".join(written(item, reader, line) for item in value) + "]"
    if isinstance(value, dict):
        items = [
            f"{Override._get_value_element_as_str(key)}:{written(item, reader, line)}" for key, item in value.items()
        ]
        return "{" + ",".join(items) + "}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, QuotedString):
        return str(value.with_quotes())
    if isinstance(value, Sweep) or not isinstance(value, int | float | str):
        raise ConfigError(f"'{line}': a list cannot hold a sweep; sweep over whole lists: KEY=[32],[64,32]")
    if not isinstance(value, str):
        return repr(value)
    try:
        plain = reader.parse_rule(value, "value")
    except HydraException:
        plain = None
    same = isinstance(plain, str) and plain == value
    return value if same else str(QuotedString(value, Quote.single).with_quotes())


def _fixed_word(override: Override, reader: OverridesParser) -> str:
    """The word as typed, its functions evaluated: shuffle([1,2]) must give one order and keep it."""
    line = str(override.input_line)
    if "(" not in line or override.value_type is None:
        return line
    return f"{override.get_key_element()}={written(override._value, reader, line)}"


def _default_seed(parsed: Sequence[Override], loader: ConfigLoaderImpl, axes: Sequence[Axis]) -> int:
    """The seed that the config itself has, under the options that every point has."""
    swept = {axis.key for axis in axes}
    choices = [o for o in parsed if is_choice(o, loader) and _key(o) not in swept and not o.is_sweep_override()]
    seed, _ = find_key(pick(loader, choices), "trainer.seed")
    return seed if isinstance(seed, int) else 0


def _seeds(given: Sequence[Override], counts: Sequence[str], reader: OverridesParser, first: int) -> tuple[int, ...]:
    """The seeds of ``seeds=N`` and of ``seed=...`` or ``trainer.seed=...`` together."""
    if len(given) > 1 or len(counts) > 1:
        lines = [str(override.input_line) for override in given] + list(counts)
        raise ConfigError(f"the seeds are given twice: {' and '.join(lines)}; leave one of them out")
    found: Sequence[Any] = [first]
    if given:
        one = not given[0].is_sweep_override()
        if given[0].is_sweep_override() and given[0].is_interval_sweep():
            raise ConfigError(f"'{given[0].input_line}': seeds are whole numbers; seeds=5 or seed=range(5)")
        found = [given[0].value()] if one else _values(given[0], group=False)
    for seed in found:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise ConfigError(f"'{given[0].input_line}': seeds are whole numbers from 0 to below 2**63")
    if not found:
        raise ConfigError(f"'{given[0].input_line}' names no seed at all")
    if not counts:
        return tuple(dict.fromkeys(found))
    if len(found) > 1:
        raise ConfigError(f"'{counts[0]}' and '{given[0].input_line}' both say how many seeds; leave one of them out")
    text = counts[0].partition("=")[2]
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_SEEDS):
        raise ConfigError(f"'{counts[0]}': takes how many seeds, such as seeds=5; name them with seed=1,2,3")
    return tuple(range(found[0], found[0] + int(text)))


def draw(axis: Axis, source: random.Random) -> str:
    """A random value of an axis, as written."""
    if axis.low is None or axis.high is None:
        return source.choice(axis.values)
    scale: Callable[[float], float] = math.log if axis.log else float
    value = source.uniform(scale(axis.low), scale(axis.high))
    return number(axis, min(axis.high, max(axis.low, math.exp(value) if axis.log else value)))


def number(axis: Axis, value: float) -> str:
    """A number of an interval, as written."""
    return str(round(value)) if axis.integer else repr(float(value))

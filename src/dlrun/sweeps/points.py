"""The points of a space, and their configs. No torch.

A key that is swept or fixed counts only under the options that have it: with ``model=cnn,mlp model.hidden=[32],[64]``
a cnn has no ``model.hidden``, so that there are three points. A key that no option has is a mistake.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.config import open_loader, pick, set_values
from dlrun.config_words import check_value, find_key, is_choice, parse, refuse_sweeps
from dlrun.errors import ConfigError
from dlrun.sweeps.nouns import Axis, Point, Settings, Space
from dlrun.sweeps.space import draw, number

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

MOST_POINTS = 100_000  # of a grid
REMEMBERED = 10_000  # words that are not read anew


class Composer:
    """Composes the configs of a sweep's points: each exactly what ``compose`` makes of its words, but faster.

    Hydra composes once for every combination of options; the values are then set on a copy by the same code. What was
    composed is remembered, so a change of a file is not seen: sweeps compose from frozen folders anyway.

    Args:
        config_dirs: the user's own folders of config files.
        shipped: a frozen copy of dlrun's own configs, to use in their place.
    """

    def __init__(self, config_dirs: Sequence[Path] = (), shipped: Path | None = None) -> None:
        self._loader = open_loader(config_dirs, shipped)
        self._words: dict[str, Override] = {}
        self._picked: dict[tuple[str, ...], DictConfig] = {}

    def config(self, point: Point, seed: int) -> DictConfig:
        """The config of a point under a seed; the caller owns it.

        Raises:
            ConfigError: as ``dlrun.config.compose``.
        """
        words = [self._word(text) for text in (*point.overrides, f"trainer.seed={seed}")]
        refuse_sweeps(words)
        choices = [word for word in words if is_choice(word, self._loader)]
        return set_values(self._pick(choices), [word for word in words if word not in choices], self._loader)

    def point(self, space: Space, choose: Callable[[Axis], str]) -> Point:
        """One point, its groups chosen first, then those axes that exist under them.

        Args:
            space: what may be chosen.
            choose: gives the value of an axis, as written after the ``=``.
        """
        values = {axis.key: choose(axis) for axis in _groups(space)}
        picked = self._under(space, values)
        axes = [axis for axis in space.axes if axis.group or self._has(picked, self._typical(axis))]
        values |= {axis.key: choose(axis) for axis in axes if not axis.group}
        return _point(self._fixed(space, picked), axes, values)

    def grid(self, space: Space) -> list[Point]:
        """All points of a finite space, each once, in Hydra's order: the last axis changes fastest.

        Raises:
            ConfigError: a key that none of the points has, or too many points.
        """
        if not space.finite:
            raise ConfigError("a space with intervals has no end of points; give sweep=tpe sweep.trials=30")
        _refuse_more(math.prod(len(axis.values) for axis in _groups(space)))
        found: dict[tuple[str, ...], Point] = {}
        used: set[str] = set()
        for options in _combinations(_groups(space)):
            picked = self._under(space, options)
            fixed = self._fixed(space, picked)
            axes = [axis for axis in space.axes if axis.group or self._has(picked, self._typical(axis))]
            used |= {axis.key for axis in axes} | set(fixed)
            inner = [axis for axis in axes if not axis.group]
            _refuse_more(len(found) + math.prod(len(axis.values) for axis in inner))
            for values in _combinations(inner):
                point = _point(fixed, axes, options | values)
                found.setdefault(point.overrides, point)
        self._refuse_unknown(space, used)
        return list(found.values())

    def sample(self, space: Space, count: int, seed: int = 0) -> list[Point]:
        """Points that stand for all: every option, every listed value, both ends of every interval, then random ones.

        Args:
            space: what may be chosen; every combination of its options is tried where there are at most ``count``.
            count: about how many points; the systematic ones are never left out.
            seed: of what is random.

        Raises:
            ConfigError: a key that none of the points has.
        """
        source = random.Random(seed)
        found: dict[tuple[str, ...], Point] = {}
        for options in _spread(_groups(space), count, source):
            inner = [axis for axis in space.axes if not axis.group]
            for i in range(max((len(axis.values) or 2 for axis in inner), default=1)):
                chosen = options | {axis.key: _corner(axis, i, source) for axis in inner}
                point = self.point(space, lambda axis, chosen=chosen: chosen[axis.key])  # type: ignore[misc]
                found.setdefault(point.overrides, point)
        used = {key for point in found.values() for key in (*point.values, *point.overrides)}
        self._refuse_unknown(space, used)
        for _ in range(count - len(found)):
            point = self.point(space, lambda axis: draw(axis, source))
            found.setdefault(point.overrides, point)
        return list(found.values())

    def _word(self, text: str) -> Override:
        if text not in self._words:
            if len(self._words) >= REMEMBERED:
                self._words.clear()
            [self._words[text]] = parse([text], self._loader)
        return self._words[text]

    def _pick(self, choices: Sequence[Override]) -> DictConfig:
        key = tuple(str(choice.input_line) for choice in choices)
        if key not in self._picked:
            self._picked[key] = pick(self._loader, choices)
        return self._picked[key]

    def _under(self, space: Space, options: dict[str, str]) -> DictConfig:
        """The composition with the fixed options and these ones."""
        fixed = [word for word in map(self._word, space.fixed) if is_choice(word, self._loader)]
        swept = [self._word(_word(axis, options[axis.key])) for axis in _groups(space)]
        return self._pick([*fixed, *swept])

    def _typical(self, axis: Axis) -> Override:
        return self._word(_word(axis, axis.values[0] if axis.low is None else number(axis, axis.low)))

    def _has(self, picked: DictConfig, word: Override) -> bool:
        """Whether a value can be set here: its key exists, or the word adds it."""
        adds = word.is_add() or word.is_force_add()
        return adds or find_key(picked, word.key_or_group)[1] is None

    def _fixed(self, space: Space, picked: DictConfig) -> tuple[str, ...]:
        words = map(self._word, space.fixed)
        return tuple(str(w.input_line) for w in words if is_choice(w, self._loader) or self._has(picked, w))

    def _refuse_unknown(self, space: Space, used: set[str]) -> None:
        """Refuse the first key that no point has, with the nearest name."""
        words = [self._typical(axis) for axis in space.axes if axis.key not in used]
        words += [self._word(word) for word in space.fixed if word not in used]
        for word in words:
            try:
                check_value(self._under(space, _combination(_groups(space))), word, self._loader)
            except ConfigError as error:
                others = " and ".join(axis.key for axis in _groups(space))
                more = f"; nor is it there under any other {others} of this sweep" if others else ""
                raise ConfigError(f"{error}{more}") from error


def planned(composer: Composer, space: Space, settings: Settings) -> int:
    """How many points the sweep will try: those asked for, but not more than there are.

    Raises:
        ConfigError: a grid of too many points.
    """
    countless = not space.finite or math.prod(len(axis.values) for axis in space.axes) > MOST_POINTS
    if countless and settings.sampler != "grid" and settings.points is not None:
        return settings.points
    count = len(composer.grid(space))
    return count if settings.points is None else min(settings.points, count)


def _groups(space: Space) -> list[Axis]:
    return [axis for axis in space.axes if axis.group]


def _word(axis: Axis, value: str) -> str:
    return f"{axis.prefix}{axis.key}={value}"


def _point(fixed: tuple[str, ...], axes: Sequence[Axis], values: dict[str, str]) -> Point:
    """A point with these axes, which are in the order of the space."""
    return Point({a.key: values[a.key] for a in axes}, (*fixed, *(_word(a, values[a.key]) for a in axes)))


def _combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    keys = [axis.key for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(keys, values, strict=True))


def _combination(axes: Sequence[Axis]) -> dict[str, str]:
    return next(_combinations(axes))


def _spread(axes: Sequence[Axis], count: int, source: random.Random) -> Iterator[dict[str, str]]:
    """All combinations of options, or ``count`` of them in which every option appears."""
    if math.prod(len(axis.values) for axis in axes) <= count:
        yield from _combinations(axes)
        return
    shuffled = {axis.key: source.sample(axis.values, len(axis.values)) for axis in axes}
    longest = max(len(axis.values) for axis in axes)
    for i in range(longest):
        yield {key: values[i % len(values)] for key, values in shuffled.items()}
    for _ in range(count - longest):
        yield {axis.key: source.choice(axis.values) for axis in axes}


def _corner(axis: Axis, i: int, source: random.Random) -> str:
    """The i-th of the systematic values: all of a list, both ends of an interval, then random ones."""
    if axis.low is None or axis.high is None:
        return axis.values[i % len(axis.values)]
    return number(axis, (axis.low, axis.high)[i]) if i < 2 else draw(axis, source)


def _refuse_more(count: int) -> None:
    if count > MOST_POINTS:
        raise ConfigError(
            f"the grid has more than {MOST_POINTS:,} points; draw some of them: sweep=random sweep.trials=100"
        )

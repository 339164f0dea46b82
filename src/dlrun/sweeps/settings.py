"""How a sweep is searched and run: ``configs/sweep.yaml`` with the words for it, as checked Settings. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from dlrun.config import SWEEP, open_loader, pick, set_values
from dlrun.config_words import head, is_choice, parse
from dlrun.errors import ConfigError, did_you_mean
from dlrun.sweeps.nouns import Settings, Space
from dlrun.value_types import parse_time

if TYPE_CHECKING:
    from omegaconf import DictConfig

SAMPLERS = ("grid", "random", "tpe", "cmaes")
PRUNERS = ("none", "asha", "hyperband", "median")
LAUNCHERS = ("auto", "local", "packed", "slurm", "ray")
KEYS = ("sampler", "trials", "pruner", "metric", "seed", "workers", "timeout", "hang", "retries", "storage")


def read_settings(
    words: Sequence[str], space: Space, config_dirs: Sequence[Path] = (), shipped: Path | None = None
) -> Settings:
    """The settings of a sweep over a space.

    Args:
        words: those that ``split_words`` puts aside: ``sweep=tpe``, ``sweep.trials=30``, ``launcher.partition=gpu``.
        space: what is swept: not every search goes with every space.
        config_dirs: the user's own folders, which may hold options of their own in ``sweep`` and ``launcher``.
        shipped: a frozen copy of dlrun's own configs, to use in their place.

    Raises:
        ConfigError: an unknown key or option, a value of the wrong type or out of range, a search that cannot be.
    """
    config = _composed([_full(word) for word in words], config_dirs, shipped)
    storage = _take_storage(config)
    node, launcher = _plain(config, "sweep"), _plain(config, "launcher")
    unknown = next((key for key in node if key not in KEYS), None)
    if unknown is not None:
        raise ConfigError(f"sweep.{unknown}: there is no such setting{did_you_mean(str(unknown), KEYS)}")
    for key in KEYS:
        if key not in node:
            raise ConfigError(f"sweep.{key} is missing from the configuration; set it, or leave it as it is")
    sampler = _one_of("sweep.sampler", node["sampler"], SAMPLERS)
    settings = Settings(
        sampler=sampler,
        points=_points(sampler, node["trials"], space),
        pruner=_one_of("sweep.pruner", node["pruner"] or "none", PRUNERS),
        metric=_metric(node["metric"]),
        seed=_whole("sweep.seed", node["seed"], 0, 2**32 - 1),
        workers=_whole("sweep.workers", node["workers"], 1, 10_000),
        timeout=parse_time("sweep.timeout", node["timeout"]),
        hang=_time("sweep.hang", node["hang"]),
        retries=_whole("sweep.retries", node["retries"], 0, 1000),
        storage=storage,
        launcher=_one_of("launcher.name", launcher.pop("name", None), LAUNCHERS),
        lanes=_lanes(launcher.pop("lanes", None)),
        options=launcher,
    )
    _check_search(settings, space)
    return settings


def storage_url(settings: Settings) -> str | None:
    """The URL of the database with its variables of the environment looked up; it may hold a password: never print it.

    Raises:
        ConfigError: a variable that is not set.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if settings.storage is None:
        return None
    try:
        return str(OmegaConf.create({"url": settings.storage}).url)
    except OmegaConfBaseException as error:
        raise ConfigError(f"sweep.storage cannot be looked up: {str(error).splitlines()[0]}") from error


def _full(word: str) -> str:
    """``pruner=asha`` is short for ``sweep.pruner=asha``."""
    name = head(word)
    if name == "pruner":
        return f"sweep.{word.lstrip('+')}"
    key, _, value = word.partition("=")
    if key == "sweep" and value in PRUNERS:
        raise ConfigError(f"'{word}': {value} is a pruner, which goes with any search: pruner={value}")
    return word


def _composed(words: Sequence[str], config_dirs: Sequence[Path], shipped: Path | None) -> DictConfig:
    loader = open_loader(config_dirs, shipped)
    parsed = parse(words, loader)
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(f"'{override.input_line}' names several values; a sweep has one search and one launcher")
    choices = [override for override in parsed if is_choice(override, loader)]
    return set_values(pick(loader, choices, SWEEP), [o for o in parsed if o not in choices], loader)


def _take_storage(config: DictConfig) -> str | None:
    """The storage as written, and taken out: what is looked up could bring a password into the sweep's files."""
    from omegaconf import OmegaConf

    written: Any = OmegaConf.to_container(config, resolve=False)
    value = (written.get("sweep") or {}).get("storage")
    if value is None:
        return None
    if not isinstance(value, str) or not ("://" in value or "${" in value):
        raise ConfigError(
            "sweep.storage takes the URL of a database, such as postgresql+psycopg://user@host/name; "
            "leave it out for SQLite in the sweep's folder"
        )
    if (secret := urlsplit(value).password) and not secret.startswith("${"):
        raise ConfigError(
            "sweep.storage holds a password, which the sweep's files would keep; write ${oc.env:NAME} in its place, "
            "or leave it out and set PGPASSWORD"
        )
    config.sweep.storage = None
    return value


def _plain(config: DictConfig, group: str) -> dict[str, Any]:
    """A group as plain values, interpolations looked up."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(config.get(group), DictConfig):
        raise ConfigError(f"a sweep needs its '{group}'; choose one: dlrun list {group}")
    try:
        plain: Any = OmegaConf.to_container(config[group], resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"'{group}' cannot be resolved: {str(error).splitlines()[0]}") from error
    return cast("dict[str, Any]", plain)


def _points(sampler: str, trials: Any, space: Space) -> int | None:
    """How many points to try; more than a finite space has make no sense."""
    if trials is None:
        if not space.finite and sampler != "grid":
            raise ConfigError(
                f"sweep={sampler} over an interval has no end of itself; say how many points to try: sweep.trials=30"
            )
        return None
    count = _whole("sweep.trials", trials, 1, 10**9)
    return min(count, math.prod(len(axis.values) for axis in space.axes)) if space.finite else count


def _check_search(settings: Settings, space: Space) -> None:
    """Refuse a search that the space does not allow."""
    intervals = [axis.key for axis in space.axes if not axis.finite]
    if settings.sampler == "grid" and intervals:
        raise ConfigError(
            f"{intervals[0]} is an interval, which has no grid; pick a search, as sweep=tpe sweep.trials=30 "
            "(or sweep=random), or list its values"
        )
    if settings.sampler == "cmaes" and not intervals:
        raise ConfigError("sweep=cmaes searches intervals, and none is given; use sweep=tpe, or KEY=interval(low,high)")


def _one_of(key: str, value: Any, names: Sequence[str]) -> str:
    if value not in names:
        raise ConfigError(f"{key}={value}: there is no such choice{did_you_mean(str(value), names)}")
    return str(value)


def _metric(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"sweep.metric={value}: takes the name of a metric, such as val/accuracy, or auto")
    return value


def _whole(key: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{key}={value}: takes a whole number from {low} to {high}")
    return value


def _time(key: str, value: Any) -> float:
    seconds = parse_time(key, value)
    if seconds is None:
        raise ConfigError(f"{key}=null: takes a time such as 90s, 30m or 2h")
    return seconds


def _lanes(value: Any) -> int | None:
    return None if value is None else _whole("launcher.lanes", value, 1, 100_000)

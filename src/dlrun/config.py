"""Composing the configuration with Hydra, and saying plainly what is wrong with it. No torch here.

Hydra's grammar and config groups, without ``hydra.main``: dlrun owns the run directory, the errors and the process,
and nothing under ``hydra.*`` can be set by a file or an override.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dlrun.errors import ConfigError, did_you_mean
from dlrun.value_types import check_type

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

PRIMARY = "train"


@dataclass(frozen=True)
class Option:
    """One choice of a config group: its name, one line of meaning, and its file."""

    name: str
    meaning: str
    path: Path


def config_dir() -> Path:
    """The folder of the shipped configs: inside the wheel, or at the top of a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "configs", here.parents[1] / "configs"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise ConfigError(f"dlrun's own configs are missing beside {here}: install dlrun again")


@contextmanager
def _loader(config_dirs: Sequence[Path]) -> Iterator[ConfigLoaderImpl]:
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    for folder in config_dirs:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder")
    search_path = create_config_search_path(str(config_dir()))
    for folder in reversed(config_dirs):
        search_path.prepend("user", f"file://{folder.resolve()}")
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2(task_name="dlrun", config_search_path=search_path)
        yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().clear()


def compose(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Compose ``train.yaml`` with the overrides of the command line.

    Raises:
        ConfigError: an unknown group, option or key, or a value of the wrong type; names the nearest one.
    """
    with _loader(config_dirs) as loader:
        parsed = _parse(overrides, loader)
        _refuse_sweeps(parsed)
        return _load(loader, parsed)


def load_config(path: Path) -> DictConfig:
    """The configuration a run was started with, read as plain YAML: nothing in it is looked up or called.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        config = OmegaConf.load(path)
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path} holds no configuration")
    OmegaConf.set_struct(config, True)
    return config


def change(config: DictConfig, overrides: Sequence[str], changeable: Sequence[str]) -> DictConfig:
    """The configuration with some of its values changed, where only some may change.

    Raises:
        ConfigError: a key that is not among ``changeable`` (whole keys, or prefixes that end with a dot).
    """
    from omegaconf import OmegaConf

    with _loader(()) as loader:
        parsed = _parse(overrides, loader)
        _refuse_sweeps(parsed)
        for override in parsed:
            key = override.key_or_group
            if override.is_add() or override.is_delete():
                raise ConfigError(f"'{override.input_line}': a run that goes on takes KEY=VALUE alone")
            if not any(key.startswith(name) if name.endswith(".") else key == name for name in changeable):
                names = ", ".join(name + "*" if name.endswith(".") else name for name in changeable)
                raise ConfigError(
                    f"{key} cannot change when a run goes on (only {names}); "
                    f"start a new run: dlrun train {override.input_line}"
                )
            _check_value(config, override, loader)
            OmegaConf.update(config, key, override.value())
    return config


def expand(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[list[str]]:
    """The points of ``--multirun`` in Hydra's sweep grammar, each composed and checked before any starts."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    with _loader(config_dirs) as loader:
        try:
            batches = BasicSweeper.split_arguments(_parse(overrides, loader), None)
        except HydraException as error:
            raise ConfigError(f"--multirun takes lists, range and glob: {' '.join(str(error).split())}") from error
        points = [list(point) for batch in batches for point in batch]
        for point in points:
            _load(loader, _parse(point, loader))
    return points


def completions(line: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """Hydra's completions of groups, options and keys for the words after the command."""
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    with _loader(config_dirs) as loader:
        found = BashCompletion(loader)._query(config_name=PRIMARY, line=line)
    return sorted(word for word in found if not word.startswith("hydra"))


def groups(config_dirs: Sequence[Path] = ()) -> dict[str, list[Option]]:
    """Every config group with its options, in the order of the shipped folder, the user's folders first."""
    found: dict[str, dict[str, Option]] = {}
    for root in (*config_dirs, config_dir()):
        for path in sorted(root.glob("*/*.yaml")):
            options = found.setdefault(path.parent.name, {})
            options.setdefault(path.stem, Option(path.stem, _meaning(path), path))
    return {group: [options[name] for name in sorted(options)] for group, options in sorted(found.items())}


def _meaning(path: Path) -> str:
    """The first comment of a YAML file that is not a Hydra directive."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def _parse(overrides: Sequence[str], loader: ConfigLoaderImpl) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=loader)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except (HydraException, ValueError) as error:
            reason = str(error).strip().splitlines()[0].removeprefix("LexerNoViableAltException: ")
            raise ConfigError(
                f"cannot read '{text}' ({reason}); overrides look like model=cnn or optimizer.lr=0.01, "
                "and words with spaces, commas or brackets need quotes: 'data.path=\"my file.csv\"'"
            ) from error
        if parsed[-1].key_or_group.partition(".")[0].partition("/")[0] == "hydra":
            raise ConfigError(f"'{text}': keys under hydra are closed; dlrun owns the run directory (--outputs DIR)")
    return parsed


def _refuse_sweeps(parsed: Sequence[Override]) -> None:
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(
                f"'{override.input_line}' names several values; for one run of each: "
                f"dlrun train --multirun {override.input_line}"
            )


def _load(loader: ConfigLoaderImpl, parsed: Sequence[Override]) -> DictConfig:
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    def load(lines: Sequence[str]) -> DictConfig:
        config = loader.load_configuration(PRIMARY, list(lines), run_mode=RunMode.RUN)
        OmegaConf.set_struct(config, False)
        picked = config.pop("hydra").runtime.choices
        config.choices = {group: option for group, option in picked.items() if not group.startswith("hydra/")}
        OmegaConf.set_struct(config, True)
        return cast("DictConfig", config)

    lines = [override.input_line for override in parsed]
    choices = [o for o in parsed if loader.repository.group_exists(o.key_or_group) or "@" in o.input_line]
    values = [o for o in parsed if o not in choices]
    for choice in choices:
        _check_option(loader, choice)
    try:
        base = load([choice.input_line for choice in choices])
        for override in values:
            _check_value(base, override, loader)
        return _retargeted(load(lines), values) if values else base
    except ConfigError:
        raise
    except Exception as error:  # a user's own YAML can make Hydra fail in many ways; --debug shows which
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"the configuration cannot be composed: {reason}") from error


def _retargeted(config: DictConfig, values: Sequence[Override]) -> DictConfig:
    """A group whose ``_target_`` the command line replaces keeps no key of the old target, only those given with it."""
    from omegaconf import OmegaConf

    keys = [override.key_or_group for override in values if not override.is_delete()]
    OmegaConf.set_struct(config, False)
    for group in [key.removesuffix("._target_") for key in keys if key.endswith("._target_") and key.count(".") == 1]:
        given = {key.split(".")[1] for key in keys if key.startswith(f"{group}.")}
        for name in [str(name) for name in config[group] if name not in given]:
            config[group].pop(name)
        config.choices[group] = str(config[group]["_target_"]).rpartition(".")[2]
    OmegaConf.set_struct(config, True)
    return config


def _check_option(loader: ConfigLoaderImpl, choice: Override) -> None:
    group, name = choice.key_or_group, choice.value()
    names = [option for option in loader.get_group_options(group) if option]
    wanted = name if isinstance(name, list) else [name]
    for option in wanted:
        if option is None and not choice.is_delete():
            raise ConfigError(f"{group}=null: leave a group out with '~{group}' instead")
        if option is not None and str(option) not in names:
            hint = did_you_mean(str(option), names)
            raise ConfigError(f"{group}={option}: the group '{group}' has no '{option}'{hint} (dlrun list {group})")


def _check_value(base: DictConfig, override: Override, loader: ConfigLoaderImpl) -> None:
    """Refuse a key that is not there, and a value of another type than the one it replaces."""
    from omegaconf import DictConfig, OmegaConf

    key = override.key_or_group
    node: Any = base
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            if override.is_add() or override.is_force_add():
                return
            where = ".".join(walked)
            names = [str(n) for n in node if n != "_target_"] if isinstance(node, DictConfig) else []
            names += [] if walked else [g for g in loader.get_group_options("") if g]
            raise ConfigError(_unknown_key(key, part, where, sorted(set(names))))
        walked.append(part)
        unknown = OmegaConf.is_missing(node, part) or OmegaConf.is_interpolation(node, part)
        node = None if unknown else node[part]
    if override.is_delete() or override.is_add():
        return
    check_type(key, override.value(), node)


def _unknown_key(key: str, part: str, where: str, names: list[str]) -> str:
    place = f"'{where}' has no key '{part}'" if where else f"there is no group or key '{part}'"
    close = did_you_mean(part, names)
    hint = f" (dlrun show prints every key; +{key}=... adds one)" if where else " (dlrun list shows every group)"
    return f"{key}: {place}{close}{hint}"

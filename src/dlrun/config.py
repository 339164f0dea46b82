"""Composing the configuration with Hydra. No torch here; ``config_words.py`` says plainly what is wrong with a word.

Hydra's grammar and config groups, without ``hydra.main``: dlrun owns the run directory, the errors and the process,
and nothing under ``hydra.*`` can be set by a file or an override.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dlrun.config_words import SWEEP_KEYS, check_option, check_value, head, is_choice, parse, refuse_sweeps
from dlrun.errors import ConfigError

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

PRIMARY = "train"
SWEEP = "sweep"  # the primary config of a sweep's own settings


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


def open_loader(config_dirs: Sequence[Path] = (), shipped: Path | None = None) -> ConfigLoaderImpl:
    """Hydra's reader of config files: the user's folders first, then dlrun's own (or ``shipped`` in their place).

    Raises:
        ConfigError: a folder that is not there.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    for folder in config_dirs:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder")
    search_path = create_config_search_path(str((shipped or config_dir()).resolve()))
    for folder in reversed(config_dirs):
        search_path.prepend("user", f"file://{folder.resolve()}")
    GlobalHydra.instance().clear()
    try:
        return Hydra.create_main_hydra2(task_name="dlrun", config_search_path=search_path).config_loader
    finally:
        GlobalHydra.instance().clear()  # nothing of it is global: the next composition starts from nothing


def compose(overrides: Sequence[str], config_dirs: Sequence[Path] = (), shipped: Path | None = None) -> DictConfig:
    """Compose ``train.yaml`` with the overrides of the command line.

    Args:
        overrides: words such as ``model=cnn`` and ``optimizer.lr=0.1``.
        config_dirs: the user's own folders of config files; the first one wins.
        shipped: a copy of dlrun's own configs to use in their place, such as a sweep's frozen one.

    Raises:
        ConfigError: an unknown group, option or key, or a value of the wrong type; names the nearest one.
    """
    loader = open_loader(config_dirs, shipped)
    parsed = parse(overrides, loader)
    refuse_sweeps(parsed)
    choices = [override for override in parsed if is_choice(override, loader)]
    return set_values(pick(loader, choices), [o for o in parsed if o not in choices], loader)


@contextmanager
def _composing() -> Iterator[None]:
    """A user's own YAML can make Hydra fail in many ways: all of them become one sentence (--debug shows which)."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"the configuration cannot be composed: {reason}") from error


def pick(loader: ConfigLoaderImpl, choices: Sequence[Override], primary: str = PRIMARY) -> DictConfig:
    """Compose the primary config with the chosen options; ``choices`` in it names them all.

    Raises:
        ConfigError: an option that its group has not, or config files that cannot be composed.
    """
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    for choice in choices:
        check_option(loader, choice)
    with _composing():
        lines = [str(choice.input_line) for choice in choices]
        config = loader.load_configuration(primary, lines, run_mode=RunMode.RUN)
        OmegaConf.set_struct(config, False)
        picked = config.pop("hydra").runtime.choices
        config.choices = {group: option for group, option in picked.items() if not group.startswith("hydra/")}
        OmegaConf.set_struct(config, True)
    return cast("DictConfig", config)


def set_values(picked: DictConfig, values: Sequence[Override], loader: ConfigLoaderImpl) -> DictConfig:
    """A copy of the composition with values set, each checked first; Hydra itself sets them.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type; names the nearest one.
    """
    from omegaconf import OmegaConf

    with _composing():
        for override in values:
            check_value(picked, override, loader)
        config = copy.deepcopy(picked)
        loader._apply_overrides_to_config(list(values), config)
        OmegaConf.set_struct(config, False)
        _retarget(config, values)
        OmegaConf.set_struct(config, True)
    return config


def _retarget(config: DictConfig, values: Sequence[Override]) -> None:
    """A group whose ``_target_`` the command line replaces keeps no key of the old target, only those given with it."""
    keys = [override.key_or_group for override in values if not override.is_delete()]
    for group in [key.removesuffix("._target_") for key in keys if key.endswith("._target_") and key.count(".") == 1]:
        given = {key.split(".")[1] for key in keys if key.startswith(f"{group}.")}
        for name in [str(name) for name in config[group] if name not in given]:
            config[group].pop(name)
        config.choices[group] = str(config[group]["_target_"]).rpartition(".")[2]


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

    loader = open_loader()
    parsed = parse(overrides, loader)
    refuse_sweeps(parsed)
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
        check_value(config, override, loader)
        OmegaConf.update(config, key, override.value())
    return config


def completions(line: str, config_dirs: Sequence[Path] = (), *, sweep: bool = False) -> list[str]:
    """Hydra's completions of groups, options and keys for the words after the command.

    Args:
        line: the words after the command, up to the cursor.
        config_dirs: the user's own folders.
        sweep: whether the command is ``dlrun sweep``, which has words of its own.
    """
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    hydra = BashCompletion(open_loader(config_dirs))
    settled, _, current = line.rpartition(" ")
    own = [word for word in settled.split() if head(word) in SWEEP_KEYS]
    rest = [word for word in settled.split() if head(word) not in (*SWEEP_KEYS, "seed", "seeds")]

    def query(primary: str, words: list[str]) -> list[str]:
        # --multirun: a settled word that names several values is no mistake
        return list(hydra._query(config_name=primary, line=" ".join(["--multirun", *words, current])))

    found = [word for word in query(PRIMARY, rest) if head(word) not in (*SWEEP_KEYS, "hydra")]
    if sweep:
        found += [word for word in query(SWEEP, own) if head(word) in SWEEP_KEYS]
        found += [word for word in ("pruner=", "seeds=") if word.startswith(current)]
    return sorted(set(found))


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

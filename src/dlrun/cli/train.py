"""``dlrun train OVERRIDES...``: compose the config, then train."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from dlrun.cli import ranks
from dlrun.cli.shared import config_dirs, finish, importing, outputs, reporting, take_trust
from dlrun.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlrun.cli.grammar import Arguments
    from dlrun.distributed.group import Together


def run(arguments: Arguments) -> int:
    """Train one network, every point of a multirun, or only print the config."""
    overrides, trusted = take_trust(arguments.words)
    for option in ("--resolve", "--package"):
        if arguments.flag(option) and not arguments.flag("--cfg"):
            raise ConfigError(f"{option} goes with --cfg; write 'dlrun train --cfg job {option}'")
    if arguments.flag("--multirun"):
        from dlrun.cli import sweep

        if arguments.flag("--cfg"):
            raise ConfigError("--cfg prints one config and --multirun makes many; leave one of them out")
        return sweep.run(arguments)

    world = ranks.world()
    if world is not None and not arguments.flag("--cfg"):
        return ranks.take_part(world, arguments, trusted, lambda peers: _train(arguments, overrides, trusted, peers))
    if world is not None and world.rank:
        return 0
    return _train(arguments, overrides, trusted, None)


def _train(arguments: Arguments, overrides: list[str], trusted: tuple[str, ...], peers: Together | None) -> int:
    """Compose and train: alone, as the first of several processes, or by starting them."""
    from dlrun.config import compose

    config = compose(overrides, config_dirs(arguments))
    if arguments.flag("--cfg"):
        print(config_text(arguments, config, overrides))
        return 0
    if peers is None and config.trainer.devices != 1:
        with importing():
            from dlrun.build import check

        return ranks.start(check(config, trusted).settings.devices, arguments)
    if peers is not None:
        peers.set_devices(config)
    with reporting(arguments) as reporter:
        with importing():
            from dlrun.run import train

        command = ["dlrun", *arguments.command]
        together: dict[str, Any] = {} if peers is None else {"peers": peers}
        outcome = train(
            config, root=outputs(arguments), command=command, reporter=reporter, trusted=trusted, **together
        )
    return finish(arguments, outcome)


def config_text(arguments: Arguments, config: DictConfig, overrides: list[str]) -> str:
    """The config as YAML, interpolations as written unless ``--resolve``; ``all`` adds what dlrun itself was told."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    shown = config
    if arguments.text("--cfg") == "all":
        from dlrun.config import config_dir

        folders = [str(folder) for folder in (*config_dirs(arguments), config_dir())]
        shown = copy.deepcopy(config)
        OmegaConf.set_struct(shown, False)
        shown["dlrun"] = {"outputs": str(outputs(arguments)), "configs": folders, "overrides": overrides}
    key = arguments.text("--package")
    if key is None or key == "_global_":
        return OmegaConf.to_yaml(shown, resolve=arguments.flag("--resolve")).rstrip()
    try:
        part = OmegaConf.select(shown, key, throw_on_missing=True)
    except Exception as error:
        raise ConfigError(f"--package {key}: {' '.join(str(error).split())}") from error
    if part is None and not _has(shown, key):
        raise ConfigError(f"--package {key}: the config has no such key{did_you_mean(key, [str(k) for k in shown])}")
    if isinstance(part, DictConfig | ListConfig):
        text = OmegaConf.to_yaml(part, resolve=arguments.flag("--resolve")).rstrip()
    else:
        text = str(part)
    return f"# @package {key}\n{text}"


def _has(config: DictConfig, key: str) -> bool:
    from omegaconf import DictConfig, OmegaConf

    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in node

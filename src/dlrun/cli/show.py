"""``dlrun show OVERRIDES...``: what would be trained, without reading data or training."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from dlrun.cli.screens import experiment, network
from dlrun.cli.shared import config_dirs, importing, take_trust
from dlrun.cli.tables import print_json, print_tables
from dlrun.cli.text import printable

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments


def run(arguments: Arguments) -> int:
    """Print the resolved config, every layer, and what is chosen and why."""
    from omegaconf import OmegaConf

    from dlrun.config import compose

    overrides, trusted = take_trust(arguments.words)
    config = compose(overrides, config_dirs(arguments))
    if arguments.flag("--config"):
        if arguments.flag("--json"):
            print_json({"config": OmegaConf.to_container(config)})
        else:
            print(OmegaConf.to_yaml(config).rstrip())
        return 0

    with importing():
        from dlrun.run import describe

    description = describe(config, trusted)
    if arguments.flag("--json"):
        choices = [{"what": what, "chosen": chosen, "why": why} for what, chosen, why in description.choices]
        layers = [asdict(row) for row in description.layers]
        print_json(
            {
                "config": OmegaConf.to_container(description.config),
                "facts": asdict(description.facts),
                "choices": choices,
                "layers": layers,
                "parameters": sum(row.parameters for row in description.layers),
                "multiply_adds": sum(row.multiply_adds for row in description.layers),
                "notes": description.notes,
            }
        )
        return 0
    print(OmegaConf.to_yaml(description.config))
    print_tables([network(description.layers, whole=True), experiment(description)])
    for note in description.notes:
        print(f"note: {printable(note)}")
    return 0

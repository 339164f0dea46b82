"""Every option of the arithmetic groups says what it means and names something that exists."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import torch
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
LEAST = {"model": 6, "activation": 20, "loss": 8, "optimizer": 14, "schedule": 8}
FILES = [path for group in LEAST for path in sorted((CONFIGS / group).glob("*.yaml")) if path.stem != "auto"]


@pytest.mark.parametrize("group", LEAST)
def test_there_are_options(group: str) -> None:
    assert len(list((CONFIGS / group).glob("*.yaml"))) >= LEAST[group]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_option_has_a_meaning_and_an_importable_target_that_takes_its_keys(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 12
    node = yaml.safe_load(path.read_text())
    node = node.get(path.parent.name, node)
    module, _, name = node.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    taken = inspect.signature(target).parameters
    assert set(node) <= set(taken)


ACTIVATIONS = [path for path in FILES if path.parent.name == "activation"]


@pytest.mark.parametrize("path", ACTIVATIONS, ids=lambda path: path.stem)
def test_activation_keeps_the_shape_and_is_the_same_twice_in_evaluation(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    layer = getattr(torch.nn, node.pop("_target_").rpartition(".")[2])(**node).eval()
    for shape in ((4, 5), (4, 5, 3, 3)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        assert layer(x).shape == shape
        assert torch.equal(layer(x), layer(x))

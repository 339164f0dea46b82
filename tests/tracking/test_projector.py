"""What TensorBoard's projector plugin reads back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.tracking import projector

IMAGES = Facts("digits", "image", (1, 2, 3), "classification", classes=("zero", "one"))


def config(folder: Path) -> Any:
    return text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings[0]


def test_codes_names_and_pictures_are_found_by_the_plugin(tmp_path: Path) -> None:
    codes, images = torch.randn(5, 3), torch.rand(5, 1, 2, 3)
    projector.write(tmp_path / "new", codes, ["a", "b\tc", "d\ne", "", "f"], images)
    found = config(tmp_path / "new")
    table = np.loadtxt(tmp_path / "new" / found.tensor_path, delimiter="\t")
    np.testing.assert_allclose(table, codes.numpy(), rtol=1e-5, atol=1e-6)
    assert (tmp_path / "new" / found.metadata_path).read_text().split("\n") == ["a", "b c", "d e", "-", "f", ""]
    assert list(found.sprite.single_image_dim) == [3, 2], "width, height"
    sprite = np.array(Image.open(tmp_path / "new" / found.sprite.image_path))
    assert sprite.shape == (3 * 2, 3 * 3, 3), "three rows and columns of five pictures"
    grey = (images - images.min()) / (images.max() - images.min()) * 255
    np.testing.assert_allclose(sprite[2:4, 0:3, 0], grey[3, 0].numpy(), atol=0.51)


def test_without_pictures_and_with_pictures_too_large_for_a_browser(tmp_path: Path) -> None:
    projector.write(tmp_path, torch.randn(4, 2), list("abcd"))
    assert not config(tmp_path).HasField("sprite")
    projector.write(tmp_path, torch.randn(4, 2), list("abcd"), torch.zeros(4, 1, 1, projector.LARGEST))
    assert not config(tmp_path).HasField("sprite")
    assert not (tmp_path / "sprite.png").exists()


class Part:
    """Examples in batches of 40, counting those read."""

    read = 0

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, 4000, 40):
            self.read += 40
            numbers = torch.arange(start, start + 40)
            yield numbers.float().view(40, 1, 1, 1).expand(40, 1, 2, 3), numbers % 2


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def encode(self, x: Tensor) -> Tensor:
        assert not self.training
        return self.scale * x.flatten(1)[:, :2]


@pytest.mark.parametrize("facts", [IMAGES, Facts("t", "table", (6,), "regression", targets=("y",))])
def test_the_first_codes_of_the_validation_part(tmp_path: Path, facts: Facts) -> None:
    part = Part()
    trainer: Any = SimpleNamespace(model=Coder(), val=part, train=None, facts=facts)
    projector.write_codes(tmp_path, trainer)
    assert part.read == 520
    assert trainer.model.training
    table = np.loadtxt(tmp_path / "tensors.tsv", delimiter="\t")
    np.testing.assert_array_equal(table, np.repeat(2.0 * np.arange(500)[:, None], 2, axis=1))
    names = (tmp_path / "metadata.tsv").read_text().split()
    assert names == ["zero", "one"] * 250 if facts.classes else names == [str(n) for n in range(500)]
    assert (tmp_path / "sprite.png").exists() == (facts.kind == "image")


def test_a_model_without_a_code_writes_nothing(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(model=nn.Linear(2, 2), val=Part(), train=None, facts=IMAGES)
    projector.write_codes(tmp_path, trainer)
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor

from dlrun.adversarial_losses import NonSaturating
from dlrun.data.facts import Facts
from dlrun.data.ring import Ring
from dlrun.models.gan import GAN
from dlrun.tasks.generation import Generation
from dlrun.tracking.canvas import BLUE
from dlrun.tracking.shown import generation

CPU = torch.device("cpu")


def look(facts: Facts, **more: Any) -> Any:
    torch.manual_seed(0)
    model = GAN(facts.input_shape, latent=3, hidden=(8,))
    task = Generation(NonSaturating(), facts)  # type: ignore[arg-type]
    return SimpleNamespace(model=model, task=task, facts=facts, device=CPU, **more)


def images(channels: int, side: int) -> Facts:
    return Facts("toy", "image", (channels, side, side), "classification", classes=("a", "b"))


def test_the_noise_is_the_same_each_time_and_training_draws_on_undisturbed() -> None:
    here = look(images(1, 8))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = generation.sampled(here, 4)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, generation.sampled(here, 4))
    assert here.model.training
    with torch.no_grad():
        here.model.generator[1].bias += 1
    assert not torch.equal(first, generation.sampled(here, 4))


def test_images_come_on_a_sheet_of_eight_in_a_row() -> None:
    drawn = generation.drawings(look(images(1, 28)))
    assert list(drawn) == ["pictures/samples"]
    picture = drawn["pictures/samples"]()
    assert picture.size == (8 * (56 + 4) + 4, 34 + 8 * (56 + 4))  # 28 pixels doubled


def test_black_is_minus_one_white_is_one_and_colours_are_theirs() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    grey = torch.tensor([[-1.0, 1.0, 0.0]]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    assert generation.sheet(red).getpixel((30, 60)) == (255, 0, 0)
    sheet = generation.sheet(grey)
    assert [sheet.getpixel((4 + 30 + 60 * i, 60))[0] for i in range(3)] == [0, 255, 128]
    assert generation.sheet(torch.zeros(2, 3, 256, 192)).size[1] == 34 + 96 + 4  # large ones shrink
    assert generation.sheet(torch.full((1, 1, 8, 8), float("nan"))).getpixel((30, 60)) == (128, 128, 128)


def test_points_lie_over_the_datas_and_those_outside_are_left_out() -> None:
    def blue(points: Tensor) -> int:
        pixels = torch.from_numpy(numpy.array(generation.scatter(Ring(examples=800).load().train.inputs, points)))
        return int(((pixels[60:].int() - torch.tensor(BLUE)).abs().amax(2) < 30).sum())

    at = 0.2 * torch.randn(300, 2)
    assert blue(at) > 200
    assert blue(at + 100) == 0


def test_the_plane_of_the_points_and_no_picture_of_a_table() -> None:
    ring = Ring(examples=800).load()
    drawn = generation.drawings(look(ring.facts, points=ring.train.inputs))
    assert drawn["pictures/samples"]().size == (484, 512)
    table = Facts("toy", "table", (3,), "regression", targets=("y",))
    assert generation.drawings(look(table)) == {}

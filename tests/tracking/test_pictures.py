"""Pictures: their size, and pixels and colours where something must be seen."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from torch import Tensor, nn

from dlrun.tracking import boundary, curves, pictures
from dlrun.tracking.canvas import BLUE, ORANGE, RED, SERIES, Axes, diverging, fitted, font, number, ticks
from dlrun.tracking.curves import COLOURS


def near(pixel: tuple[int, ...], colour: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def share(image: object, colour: tuple[int, ...], tolerance: int = 12) -> float:
    """Part of the pixels that have about this colour."""
    pixels = torch.from_numpy(numpy.array(image.convert("RGB"))).int()  # type: ignore[attr-defined]
    return ((pixels - torch.tensor(colour)).abs().amax(2) <= tolerance).float().mean().item()


def softened(colour: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(round(255 - 0.8 * (255 - c)) for c in colour)


class TestBoundary:
    points = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 4.0], [0.0, -4.0]])
    labels = torch.tensor([0, 1, 0, 1])

    @staticmethod
    def right_is_second(points: Tensor) -> Tensor:
        second = (points[:, 0] > 0).float()
        return torch.stack([1 - second, second], 1)

    def test_left_is_orange_and_right_is_blue(self) -> None:
        image = boundary.classification(self.points, self.labels, ("no", "yes"), self.right_is_second)
        assert near(image.getpixel((70, 210)), softened(ORANGE))
        assert near(image.getpixel((310, 210)), softened(BLUE))

    def test_up_is_up(self) -> None:
        def top_is_second(points: Tensor) -> Tensor:
            second = (points[:, 1] > 0).float()
            return torch.stack([1 - second, second], 1)

        image = boundary.classification(self.points, self.labels, ("no", "yes"), top_is_second)
        assert near(image.getpixel((100, 40)), softened(BLUE))
        assert near(image.getpixel((100, 300)), softened(ORANGE))

    def test_training_points_lie_where_they_belong(self) -> None:
        image = boundary.classification(self.points, self.labels, ("no", "yes"), self.right_is_second)
        # (0, 4): 300 pixels for -6..6 from column 40 and row 16.
        assert near(image.getpixel((40 + 150, 16 + 50)), ORANGE)
        assert near(image.getpixel((40 + 150, 16 + 250)), BLUE)

    def test_three_classes_have_three_colours(self) -> None:
        def thirds(points: Tensor) -> Tensor:
            return nn.functional.one_hot(((points[:, 0] + 6) / 4).long().clamp(0, 2), 3).float()

        image = boundary.classification(self.points, torch.tensor([0, 1, 2, 2]), ("a", "b", "c"), thirds)
        found = [image.getpixel((column, 300)) for column in (70, 190, 310)]
        assert len(set(found)) == 3
        assert all(min(p) > 20 for p in found)

    def test_regression_is_orange_below_and_blue_above_zero(self) -> None:
        values = self.points[:, 0] / 5
        image = boundary.regression(self.points, values, "height", lambda points: points[:, 0] / 5)
        assert near(image.getpixel((43, 210)), softened(ORANGE))
        assert near(image.getpixel((336, 210)), softened(BLUE))
        assert not near(image.getpixel((190, 210)), softened(BLUE), 60)

    def test_a_range_of_the_data_with_a_margin(self) -> None:
        (x0, x1), (y0, y1) = boundary.extent(torch.tensor([[0.0, 10.0], [1.0, 30.0]]))
        assert x0 < 0 < 1 < x1
        assert y0 < 10 < 30 < y1
        assert boundary.extent(self.points) == ((-6.0, 6.0), (-6.0, 6.0))
        (x0, x1), _ = boundary.extent(torch.zeros(3, 2))
        assert x0 < x1

    def test_the_plane_starts_at_the_top_left(self) -> None:
        grid = boundary.plane((-6, 6), (-6, 6), 3)
        assert torch.allclose(grid[0], torch.tensor([-4.0, 4.0]), atol=1e-5)
        assert torch.allclose(grid[2], torch.tensor([4.0, 4.0]), atol=1e-5)


class TestPredictions:
    def test_only_mistakes_are_red(self) -> None:
        inputs = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        names = [str(k % 10) for k in range(12)]
        right = pictures.predictions(inputs, names, names)
        wrong = pictures.predictions(inputs, ["9", *names[1:]], names)
        assert share(right, RED) == 0
        assert share(wrong, RED) > 0.001
        assert right.size == wrong.size == (5 * (72 + 12) + 12, 38 + 3 * (72 + 36 + 12))

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (4, 20, 30), (3, 300, 200)])
    def test_any_shape_is_drawn(self, shape: tuple[int, ...]) -> None:
        inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
        image = pictures.predictions(inputs, ["a long name of a class"] * 5, ["b"] * 5)
        assert image.width >= 5 * 72
        assert image.height >= 36 + 38

    def test_constant_and_broken_pictures_are_drawn(self) -> None:
        inputs = torch.zeros(2, 1, 4, 4)
        inputs[1] = float("nan")
        assert pictures.predictions(inputs, ["a", "b"], ["a", "b"]).width > 0

    def test_numbers_are_drawn(self) -> None:
        assert pictures.predicted_values(torch.rand(2, 1, 4, 4), [1.5, -2.0], [1.0, 2.0]).width > 0


class TestConfusionMatrix:
    def test_the_diagonal_is_blue(self) -> None:
        image = pictures.confusion_matrix(torch.tensor([[9, 0], [0, 9]]), ("0", "1"))
        blue = share(image, BLUE, 3)
        off = pictures.confusion_matrix(torch.tensor([[9, 9], [9, 9]]), ("0", "1"))
        assert blue > 0.03
        assert share(off, BLUE, 3) == 0

    @pytest.mark.parametrize("classes", [2, 10, 26, 100])
    def test_any_number_of_classes(self, classes: int) -> None:
        image = pictures.confusion_matrix(torch.eye(classes).long() * 1234, [f"class {k}" for k in range(classes)])
        assert 300 <= image.width <= 1300
        assert image.height <= 1300

    def test_a_class_without_examples(self) -> None:
        assert pictures.confusion_matrix(torch.zeros(3, 3).long(), ("a", "b", "c")).width >= 300


class TestFilters:
    def test_sign_is_colour(self) -> None:
        positive = pictures.filters(torch.ones(4, 1, 3, 3))
        negative = pictures.filters(-torch.ones(4, 1, 3, 3))
        assert share(positive, BLUE) > 0.4
        assert share(negative, ORANGE) > 0.4

    def test_at_most_64(self) -> None:
        assert pictures.filters(torch.randn(200, 3, 7, 7)).height < 1000

    def test_the_first_layer_is_found(self) -> None:
        convolution = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Flatten(), nn.Linear(24, 2))
        linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
        assert pictures.first_filters(convolution, (1, 28, 28)) is not None
        found = pictures.first_filters(linear, (3, 2, 2))
        assert found is not None
        assert found.shape == (7, 3, 2, 2)
        assert torch.equal(found.flatten(1), linear[1].weight)

    def test_what_is_no_picture_is_none(self) -> None:
        assert pictures.first_filters(nn.Linear(12, 7), (12,)) is None
        assert pictures.first_filters(nn.Linear(10, 7), (3, 2, 2)) is None
        assert pictures.first_filters(nn.Conv2d(3, 4, 1), (3, 2, 2)) is None


class TestCurves:
    def test_each_part_has_its_colour(self) -> None:
        found = curves.learning_curves(
            {"train/loss": [(0, 2.0), (10, 1.0)], "val/accuracy": [(0, 0.1), (10, 0.9)]}, "accuracy"
        )
        assert found is not None
        assert found.size == (1000, 360)
        assert share(found.crop((0, 0, 500, 360)), COLOURS["train"]) > 0.002
        assert share(found.crop((0, 0, 500, 360)), COLOURS["val"]) == 0
        assert share(found.crop((500, 0, 1000, 360)), COLOURS["val"]) > 0.002

    def test_nothing_to_draw(self) -> None:
        assert curves.learning_curves({}, "accuracy") is None
        assert curves.learning_curves({"train/loss": [(1, math.nan)]}, "accuracy") is None

    @pytest.mark.parametrize(
        "curve",
        [[(5, 0.0)], [(0, 1.0), (1, 1.0)], [(0, 1e-9), (100, 1e9)], [(0, -3.0), (9, math.inf), (10, 4.0)],
         [(i, math.sin(i)) for i in range(5000)]],
    )  # fmt: skip
    def test_odd_curves(self, curve: list[tuple[int, float]]) -> None:
        found = curves.learning_curves({"train/loss": curve}, "r2")
        assert found is not None
        assert share(found, COLOURS["train"]) > 0.0003  # the legend alone has 0.00027

    def test_scatter(self) -> None:
        true = torch.linspace(-3, 5, 50)
        assert curves.scatter(true * 0.9, true, "height").size == (470, 480)
        assert curves.scatter(torch.full((3,), math.nan), torch.zeros(3), "nothing").size == (470, 480)


class TestCanvas:
    def test_ticks_are_round(self) -> None:
        assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
        assert ticks(-6, 6) == [-5, 0, 5]
        assert ticks(3, 3) == [3]

    def test_numbers_are_short(self) -> None:
        assert [number(v) for v in (0.5, 12000, 3e-5, 2.5e6)] == ["0.5", "12k", "3e-05", "2.5M"]

    def test_axes_turn_the_vertical_one_around(self) -> None:
        axes = Axes(10, 20, 110, 220, (0, 1), (0, 1))
        assert (axes.x(0), axes.x(1), axes.y(0), axes.y(1)) == (10, 110, 220, 20)
        log = Axes(0, 0, 100, 100, (0, 1), (0.01, 100), log=True)
        assert log.y(1) == pytest.approx(50)

    def test_diverging_colours(self) -> None:
        found = diverging(torch.tensor([-2.0, -1.0, 1.0, 2.0])).tolist()
        assert found == [list(ORANGE), list(ORANGE), list(BLUE), list(BLUE)]

    def test_long_text_is_cut(self) -> None:
        assert fitted("short", 100, 12) == "short"
        cut = fitted("a very long name of a class", 60, 12)
        assert cut.endswith("..")
        assert font(12).getlength(cut) <= 60

    def test_ten_colours(self) -> None:
        assert len(set(SERIES)) == 10

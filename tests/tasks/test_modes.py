from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlrun.data.ring import Ring
from dlrun.tasks.modes import ModesYardstick


def yardstick() -> tuple[ModesYardstick, Tensor, Tensor]:
    """One that knows the eight clouds of a ring, with the points it learnt from and their clouds."""
    part = Ring(examples=4000).load().train
    made = ModesYardstick(8, 2)
    made.learn([(part.inputs[:1000], part.targets[:1000]), (part.inputs[1000:], part.targets[1000:])])
    return made, part.inputs, part.targets


def test_it_learns_centre_deviation_and_share_of_each_cloud() -> None:
    made, points, clouds = yardstick()
    for k in range(8):
        own = points[clouds == k]
        torch.testing.assert_close(made.centres[k], own.mean(0))
        torch.testing.assert_close(made.deviations[k], own.var(0, correction=0).mean().sqrt(), rtol=1e-4, atol=0)
    torch.testing.assert_close(made.shares, clouds.bincount() / len(clouds))


def test_the_data_themselves_are_covered() -> None:
    """1 - exp(-9/2) = 0.989 of a round cloud lies within three deviations; 3,240 points: +- 0.005."""
    made, points, _ = yardstick()
    (found,) = made.judge([], points)
    assert found["modes"] == 8
    assert found["quality"].item() == pytest.approx(0.989, abs=0.006)
    assert found["overlap"].item() == pytest.approx(0.989, abs=0.006)


def test_one_cloud_alone_has_quality_and_little_overlap() -> None:
    made, points, clouds = yardstick()
    (found,) = made.judge([], points[clouds == 3])
    assert found["modes"] == 1
    assert found["quality"] > 0.97
    assert found["overlap"].item() == pytest.approx(1 / 8, abs=0.001)


def test_a_blurred_ring_has_all_modes_and_little_of_the_rest() -> None:
    made, points, _ = yardstick()
    exact, blurred = made.judge([], points, points + 0.3 * torch.randn(points.shape))
    assert blurred["modes"] == 8
    assert blurred["quality"] < 0.25 < exact["quality"]
    assert blurred["overlap"] < 0.25


def test_a_cloud_counts_from_ten_examples_on() -> None:
    made, _, _ = yardstick()
    exactly = torch.cat([made.centres[:1].expand(9, 2), made.centres[1:2].expand(10, 2), torch.full((1000, 2), 50.0)])
    assert made.judge([], exactly)[0]["modes"] == 1


def test_state_and_back() -> None:
    made, points, _ = yardstick()
    other = ModesYardstick(8, 2)
    other.restore(made.state())
    assert other.judge([], points) == made.judge([], points)

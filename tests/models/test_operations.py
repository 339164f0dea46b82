"""Operations of a forward pass, counted by hand beside."""

from __future__ import annotations

import torch
from torch import nn

from dlrun.models.operations import Operations, count_operations


def test_a_linear_layer() -> None:
    assert count_operations(nn.Linear(5, 7), torch.zeros(3, 5)) == Operations(2 * 3 * 5 * 7, 1)


def test_a_convolution_and_what_lies_around_it() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    expected = 2 * (2 * 4 * 9) * 36 * 3 + 2 * (144 * 2) * 3
    assert count_operations(network, torch.zeros(3, 2, 8, 8)) == Operations(expected, 2)


def test_the_random_stream_is_left_alone() -> None:
    torch.manual_seed(0)
    count_operations(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(), torch.zeros(1, 2))
    drawn = torch.rand(2)
    torch.manual_seed(0)
    nn.Linear(2, 2)
    assert torch.equal(drawn, torch.rand(2))

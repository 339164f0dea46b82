"""Operations of a forward pass, counted by hand beside."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlrun.models.lstm import LSTM
from dlrun.models.operations import Operations, Products, count_operations
from dlrun.models.recurrent import write_out


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


class _Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 18)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in self.project(x).chunk(3, dim=2))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 5, 6)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 5, 6)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False), (4, 9, 9)),
        (nn.Conv1d(4, 6, 3), (4, 9)),
        (nn.Linear(7, 3, bias=False), (5, 7)),
        (_Attends(), (5, 6)),
        (nn.GRU(4, 5, num_layers=2, batch_first=True), (7, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_every_kind_of_product_is_counted_as_torch_counts_it(model: nn.Module, shape: tuple[int, ...]) -> None:
    with Products() as products:
        model(torch.zeros(2, *shape))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, *shape))
    assert products.multiply_adds * 2 == counter.get_total_flops() > 0


def test_a_fused_lstm_is_as_much_as_its_steps_written_out() -> None:
    """The fused kernel is one operator; written out it is a product for the inputs and one for each of 7 steps."""
    network, inputs = LSTM((7, 4), (2,), hidden=5, layers=2), torch.zeros(3, 7, 4)
    fused = count_operations(network, inputs)
    assert fused == Operations(2 * 3 * (7 * (4 * 5 * (4 + 5) + 4 * 5 * (5 + 5)) + 5 * 2), 2 * (1 + 7) + 1)
    write_out(network)
    assert count_operations(network, inputs) == fused

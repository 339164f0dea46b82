from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlrun.models.cnn import CNN
from dlrun.models.mlp import MLP
from dlrun.models.summary import Row, summarize


def test_rows_of_an_mlp_by_hand() -> None:
    rows = summarize(MLP((1, 2, 2), 3, nn.ReLU, hidden=[5]), (1, 2, 2))
    assert rows == [
        Row("flatten", "Flatten", (1, 2, 2), (4,), 0, 0),
        Row("hidden.0", "Linear", (4,), (5,), 25, 20),
        Row("hidden.1", "ReLU", (5,), (5,), 0, 0),
        Row("output", "Linear", (5,), (3,), 18, 15),
    ]


def test_a_convolution_costs_its_filter_per_output_position() -> None:
    row = summarize(nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2)), (3, 10, 12))[0]
    assert row.output_shape == (8, 5, 6)
    assert row.multiply_adds == 8 * 5 * 6 * 3 * 5 * 5
    assert row.parameters == 8 * 3 * 5 * 5 + 8


def test_sums_equal_the_flop_counter_and_the_parameters() -> None:
    model = CNN((1, 8, 8), 10, nn.ReLU, batch_norm=True).eval()
    rows = summarize(model, (1, 8, 8))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 8, 8))
    assert sum(row.multiply_adds for row in rows) * 2 == counter.get_total_flops()
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())


class _Odd(nn.Module):
    """A parameter beside submodules, one layer called twice, one whose weight is shared, one never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.twice = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.twice.weight
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.unused = nn.Linear(4, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tied(self.twice(self.twice(x))) * self.scale
        return self.attention(x, x, x, need_weights=False)[0] @ torch.ones(4, 4, device=x.device)


def test_odd_networks_add_up() -> None:
    model = _Odd()
    rows = {row.name: row for row in summarize(model, (3, 4))}
    assert rows["twice"].multiply_adds == 2 * 3 * 4 * 4
    assert rows["tied"].parameters == 0
    assert rows[""].multiply_adds == 3 * 4 * 4, "the product outside any layer is the network's own"
    assert rows["attention"].parameters == sum(p.numel() for p in model.attention.parameters())
    assert rows[""].parameters == 4 + 4 * 7 + 7
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in model.parameters())


def test_the_fused_lstm_is_counted_too() -> None:
    (row,) = summarize(nn.LSTM(4, 5, num_layers=2, batch_first=True), (7, 4))
    assert row.multiply_adds == 7 * (4 * 5 * (4 + 5) + 4 * 5 * (5 + 5))


def test_tokens_are_summarized_with_an_integer_type() -> None:
    rows = summarize(nn.Sequential(nn.Embedding(9, 4), nn.LSTM(4, 5, batch_first=True)), (7,), dtype=torch.long)
    assert [row.output_shape for row in rows] == [(7, 4), (7, 5)]


def test_the_network_itself_is_left_alone() -> None:
    model = CNN((1, 8, 8), 10, nn.ReLU, batch_norm=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    summarize(model, (1, 8, 8))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())

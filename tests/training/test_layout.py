"""Channels last where it is asked for or pays, the same function either way, and resumed to the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.training.layout import laid_out, lies_channels_last, lies_so, like
from dlrun.training.updater import Updater

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PICTURES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Viewing(nn.Module):
    """Calls ``view`` on what a convolution gives, as many a tutorial does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).view(len(x), -1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))


@pytest.mark.parametrize(
    ("wanted", "model", "inputs", "device", "expected"),
    [
        ("auto", small, PICTURES, CPU, True),
        ("auto", small, PICTURES, CUDA, False),
        ("auto", lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), PICTURES, CPU, False),
        ("auto", Viewing, PICTURES, CPU, False),
        ("auto", lambda: nn.Linear(8, 2), torch.zeros(2, 8), CPU, False),
        (False, small, PICTURES, CPU, False),
        (True, small, PICTURES, CUDA, True),
    ],
)
def test_where_it_is_chosen(wanted: Any, model: Any, inputs: Tensor, device: Any, expected: bool) -> None:
    assert lies_channels_last(wanted, model(), inputs, device) is expected


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"trainer.channels_last=true: the network cannot run so \(view size"):
        lies_channels_last(True, Viewing(), PICTURES, CPU)


def test_weights_and_results_lie_channels_last_and_are_the_same_function() -> None:
    plain = small()
    model = laid_out(copy.deepcopy(plain))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index, union-attr]
    assert model[0](PICTURES).is_contiguous(memory_format=torch.channels_last)  # type: ignore[index, operator]
    torch.testing.assert_close(model(PICTURES), plain(PICTURES))
    assert (lies_so(model), lies_so(plain)) == (True, False)


def test_a_value_takes_the_layout_of_its_parameter() -> None:
    parameter = torch.zeros(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    value = torch.arange(300.0).reshape(4, 3, 5, 5)
    found = like(value, parameter)
    assert torch.equal(found, value)
    assert found.stride() == parameter.stride()
    step = torch.tensor(3.0)
    assert like(step, parameter) is step


@pytest.mark.parametrize(
    "optimizer_of",
    [
        lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    ],
    ids=["adam", "momentum"],
)
def test_a_state_from_a_file_goes_on_to_the_same_bits(optimizer_of: Any) -> None:
    """A file holds no layouts, and a fused kernel that took a moment for channels last would mix up its numbers."""

    def make() -> tuple[nn.Module, Updater]:
        model = laid_out(small())
        return model, Updater(optimizer_of(model.parameters()), torch.amp.GradScaler("cpu", enabled=False))

    def step(model: nn.Module, updater: Updater) -> None:
        updater.zero_grad()
        updater.backward(model(PICTURES).square().mean())
        updater.step()

    def from_file(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: from_file(item) for key, item in value.items()}
        if isinstance(value, list):
            return [from_file(item) for item in value]
        return value.contiguous() if isinstance(value, Tensor) else value

    (model, updater), (again, resumed) = make(), make()
    for _ in range(3):
        step(model, updater)
    again.load_state_dict(from_file(model.state_dict()))
    resumed.load_state_dict(from_file(copy.deepcopy(updater.state_dict())))
    for _ in range(3):
        step(model, updater)
        step(again, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

"""The gradients of every model, loss and activation equal numerical ones in float64.

Along a random unit direction d over all parameters w, (L(w + h d) - L(w - h d)) / 2h must equal grad L(w) . d. With
h = 1e-6 and float64 the quotient is good to about 1e-9 where L is smooth. A kink between the two points, which
piecewise linear activations have, shows as two step sizes that disagree; another direction is then tried.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from dlrun.models.cnn import CNN
from dlrun.models.lenet5 import LeNet5, PartialConv2d, Subsample
from dlrun.models.mlp import MLP
from dlrun.models.perceptron import Perceptron
from dlrun.models.resnet import CifarResNet, ImageNetResNet

CONFIGS = Path(__file__).parents[2] / "configs"
ACTIVATIONS = sorted(path.stem for path in (CONFIGS / "activation").glob("*.yaml"))
LOSSES = sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml") if "dlrun.losses." in path.read_text())
RANDOM = {"rrelu"}  # draws its slopes while it trains: checked in evaluation, where it is a function
BATCH, CLASSES = 4, 3
Build = Callable[[Callable[[], nn.Module]], nn.Module]
MODELS: dict[str, tuple[tuple[int, ...], Build]] = {
    "perceptron": ((4,), lambda activation: Perceptron((4,), CLASSES)),
    "mlp": ((4,), lambda activation: MLP((4,), CLASSES, activation, hidden=(5, 4), batch_norm=True)),
    "cnn": ((1, 4, 4), lambda activation: CNN((1, 4, 4), CLASSES, activation, channels=(2, 3), hidden=(4,))),
    "lenet5": ((1, 28, 28), lambda activation: LeNet5((1, 28, 28), CLASSES, activation)),
    "resnet8": ((1, 4, 4), lambda activation: CifarResNet((1, 4, 4), CLASSES, activation, depth=8)),
}


def make(group: str, name: str) -> Any:
    node = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
    module, _, attribute = node.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), attribute)(**node)


def shifted(model: nn.Module, direction: list[Tensor], size: float, value: Callable[[], Tensor]) -> float:
    with torch.no_grad():
        for parameter, d in zip(model.parameters(), direction, strict=True):
            parameter.add_(d, alpha=size)
        result = value().item()
        for parameter, d in zip(model.parameters(), direction, strict=True):
            parameter.sub_(d, alpha=size)
    return result


def check(model: nn.Module, value: Callable[[], Tensor]) -> None:
    model.zero_grad()
    value().backward()
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in model.parameters()]
        length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
        direction = [d / length for d in direction]
        slopes = [
            (shifted(model, direction, h, value) - shifted(model, direction, -h, value)) / (2 * h) for h in (1e-6, 4e-7)
        ]
        if abs(slopes[0] - slopes[1]) > 1e-7 * max(1.0, abs(slopes[0])):
            continue  # a kink in between
        exact = sum((p.grad * d).sum().item() for p, d in zip(model.parameters(), direction, strict=True))
        assert exact == pytest.approx(slopes[0], rel=1e-5, abs=1e-7)
        return
    raise AssertionError("no direction without a kink")


def test_there_are_activations_and_losses() -> None:
    assert len(ACTIVATIONS) >= 20
    assert len(LOSSES) >= 8


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("model_name", MODELS)
def test_gradients_equal_numerical_ones(model_name: str, activation: str) -> None:
    shape, build = MODELS[model_name]
    torch.manual_seed(0)
    model = build(lambda: make("activation", activation)).double()
    model.train(activation not in RANDOM)
    with torch.no_grad():
        for parameter in model.parameters():  # off the start, where LeNet's pooling biases of 0 sit on ReLU's kink
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    inputs, targets = torch.randn(BATCH, *shape, dtype=torch.double), torch.arange(BATCH) % CLASSES
    for loss_name in LOSSES:
        loss = make("loss", loss_name).double()
        check(model, lambda loss=loss: loss(model(inputs), targets))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Subsample(2), (2, 2, 4, 4)),
        (PartialConv2d(3, ((0, 1), (2,)), 2), (2, 3, 3, 3)),
        (ImageNetResNet((1, 8, 8), 2, nn.Tanh, depth=18).stem, (2, 1, 8, 8)),
    ],
)
def test_every_input_gradient_equals_its_numerical_one(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(module.double(), (x,), fast_mode=len(shape) > 3 and shape[-1] > 4)


@pytest.mark.parametrize(
    ("name", "units"),  # cross-entropy wants a unit per class
    [(name, units) for name in LOSSES for units in (1, CLASSES) if (name, units) != ("cross_entropy", 1)],
)
def test_every_output_gradient_equals_its_numerical_one(name: str, units: int) -> None:
    loss = make("loss", name)
    targets = torch.arange(BATCH) % max(2, units)
    outputs = torch.randn(BATCH, units, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda out: loss(out, targets), (outputs.requires_grad_(),))

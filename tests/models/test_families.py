"""What each family promises beyond the conformance suite: the paper's numbers, sizes from the data, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.cnn import CNN
from dlrun.models.lenet5 import C3_TABLE, LeNet5, PartialConv2d, Subsample
from dlrun.models.mlp import MLP
from dlrun.models.perceptron import Perceptron
from dlrun.models.resnet import CifarResNet, ZeroPadShortcut, resnet
from dlrun.models.summary import summarize
from dlrun.models.zoo import torchvision_model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_perceptron_is_the_weighted_sum_plus_bias() -> None:
    model = Perceptron((2, 2), 3)
    x = torch.randn(5, 2, 2)
    expected = x.reshape(5, 4) @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(x), expected)
    assert parameters(Perceptron((4,), 3, bias=False)) == 12


def test_mlp_has_784_inputs_for_an_image_and_the_hidden_units_asked_for() -> None:
    model = MLP((1, 28, 28), 10, nn.ReLU, hidden=[300, 100])
    assert [m.weight.shape for m in model.modules() if isinstance(m, nn.Linear)] == [(300, 784), (100, 300), (10, 100)]


def test_mlp_without_hidden_layers_is_a_perceptron() -> None:
    assert parameters(MLP((4,), 3, nn.ReLU, hidden=[])) == parameters(Perceptron((4,), 3))


def test_mlp_options_add_their_layers() -> None:
    kinds = [type(m) for m in MLP((4,), 3, nn.Tanh, hidden=[5], dropout=0.5, batch_norm=True).hidden]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]


def test_cnn_stages_are_convolution_normalisation_activation_pooling() -> None:
    model = CNN((1, 8, 8), 10, nn.Tanh, channels=[4], batch_norm=True)
    assert [type(m) for m in model.features] == [nn.Conv2d, nn.BatchNorm2d, nn.Tanh, nn.MaxPool2d]
    assert CNN((3, 7, 5), 2, nn.ReLU, channels=[4], pool=1, kernel=5)(torch.zeros(1, 3, 7, 5)).shape == (1, 2)


def test_lenet5_has_the_papers_parameters_per_layer() -> None:
    rows = {row.name.rpartition(".")[2]: row for row in summarize(LeNet5((1, 28, 28), 10, nn.Tanh), (1, 28, 28))}
    paper = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}
    assert {name: rows[name].parameters for name in paper} == paper
    shapes = {"c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120, 1, 1)}
    assert {name: rows[name].output_shape for name in shapes} == shapes


def test_c3_table_is_the_papers() -> None:
    assert sum(map(len, C3_TABLE)) == 60
    assert [sum(i in inputs for inputs in C3_TABLE) for i in range(6)] == [10] * 6
    assert C3_TABLE[0] == (0, 1, 2)
    assert set(C3_TABLE[5]) == {0, 1, 5}
    assert set(C3_TABLE[9]) == {0, 3, 4, 5}


def test_partial_convolution_equals_one_convolution_per_map() -> None:
    layer = PartialConv2d(3, ((0, 2), (1,)), 2)
    x = torch.randn(2, 3, 4, 4)
    first = nn.functional.conv2d(x[:, [0, 2]], layer.weight[None, :2], layer.bias[:1])
    second = nn.functional.conv2d(x[:, [1]], layer.weight[None, 2:], layer.bias[1:])
    torch.testing.assert_close(layer(x), torch.cat([first, second], 1))


def test_subsampling_is_coefficient_times_mean_plus_bias() -> None:
    layer = Subsample(1)
    nn.init.constant_(layer.coefficient, 2.0)
    nn.init.constant_(layer.bias, 1.0)
    assert layer(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).item() == 7.0


@pytest.mark.parametrize("side", [28, 29, 32, 33, 40])
def test_lenet5_takes_larger_images(side: int) -> None:
    assert LeNet5((3, side, 28), 7, nn.ReLU)(torch.zeros(2, 3, side, 28)).shape == (2, 7)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnet_has_the_papers_size(depth: int, millions: float) -> None:
    with torch.device("meta"):
        model = resnet((3, 32, 32), 10, nn.ReLU, depth)
    assert parameters(model) / 1e6 == pytest.approx(millions, rel=0.03)
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == depth


def test_a_wide_cifar_resnet_has_so_many_maps_in_its_three_stages() -> None:
    """Wide residual networks (Zagoruyko 2016), table 1: k, 2k and 4k times 16 maps."""
    model = resnet((1, 28, 28), 10, nn.ReLU, depth=14, width=64)
    maps = [block.residual[0].out_channels for block in model.blocks]
    assert maps == [64, 64, 128, 128, 256, 256]
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_imagenet_resnet_has_torchvisions_size_and_cost(depth: int) -> None:
    with torch.device("meta"):
        model = resnet((3, 224, 224), 1000, nn.ReLU, depth)
        reference = torchvision_model(f"resnet{depth}", (3, 224, 224), 1000)
    assert parameters(model) == parameters(reference)
    shape = (3, 224, 224)
    ours, theirs = (sum(row.multiply_adds for row in summarize(m, shape)) for m in (model, reference))
    assert ours == theirs


def test_shortcut_of_option_a_takes_every_second_position_and_appends_zeros() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.stack([torch.tensor([[0.0, 2.0], [8.0, 10.0]]), torch.zeros(2, 2)])[None]
    assert torch.equal(ZeroPadShortcut(1, 2)(x), expected)


def test_residual_weights_start_with_hes_variance() -> None:
    torch.manual_seed(0)
    weight = CifarResNet((3, 32, 32), 10, nn.ReLU, 20).blocks[-1].residual[0].weight
    assert weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)


def test_torchvision_repeats_grey_images_to_three_channels() -> None:
    torch.manual_seed(0)
    model = torchvision_model("shufflenet_v2_x0_5", (1, 32, 32), 4).eval()
    grey = torch.randn(2, 1, 32, 32)
    assert isinstance(model, nn.Sequential)
    assert torch.equal(model(grey), model[1](grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 80), ("vit_b_16", 32)])
def test_torchvision_networks_with_their_own_ways_train_with_one_output(name: str, side: int) -> None:
    with torch.device("meta"):
        model = torchvision_model(name, (3, side, side), 4).train()
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 4)


REFUSALS: list[tuple[Callable[[], Any], str]] = [
    (lambda: CNN((4,), 3, nn.ReLU), "model=mlp"),
    (lambda: LeNet5((4,), 3, nn.ReLU), "model=mlp"),
    (lambda: resnet((4,), 3, nn.ReLU), "model=mlp"),
    (lambda: torchvision_model("resnet18", (4,), 3), "model=mlp"),
    (lambda: LeNet5((1, 8, 8), 10, nn.ReLU), "model=cnn"),
    (lambda: CNN((1, 8, 8), 10, nn.ReLU, channels=[4, 4, 4, 4]), "model.pool=1"),
    (lambda: CNN((1, 8, 8), 10, nn.ReLU, kernel=4), "must be odd"),
    (lambda: MLP((4,), 3, nn.ReLU, hidden=[5, 0]), "without units"),
    (lambda: CNN((1, 8, 8), 10, nn.ReLU, hidden=[0]), "without units"),
    (lambda: CNN((1, 8, 8), 10, nn.ReLU, pool=0), "must be positive"),
    (lambda: CNN((1, 8, 8), 10, nn.ReLU, channels=[4, 0]), "must be positive"),
    (lambda: MLP((4,), 3, nn.ReLU, dropout=1.0), "model.dropout"),
    (lambda: resnet((3, 8, 8), 3, nn.ReLU, depth=19), "model.depth=20"),
    (lambda: torchvision_model("resnet_18", (3, 8, 8), 3), "did you mean 'resnet18'"),
    (lambda: torchvision_model("resnet18", (4, 8, 8), 3), "4 channels"),
    (lambda: torchvision_model("vit_b_16", (3, 32, 48), 3), "square"),
]


@pytest.mark.parametrize(("build", "words"), REFUSALS)
def test_what_cannot_work_is_refused_in_one_sentence(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

"""Reconstruction: the inputs are the targets, and principal component analysis stands beside the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.losses import BinaryCrossEntropy, MeanSquaredError
from dlrun.models.autoencoder import Autoencoder
from dlrun.tasks.reconstruction import Reconstruction

IMAGES = Facts("digits", "image", (1, 4, 4), "classification", classes=("a", "b"))
PIXELS = torch.rand(90, 1, 4, 4, generator=torch.Generator().manual_seed(10))


def batches(size: int = 40) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in PIXELS.split(size)]


def fitted(loss: Any = None) -> Reconstruction:
    task = Reconstruction(loss or MeanSquaredError(), IMAGES)
    task.fit(torch.zeros(90), batches)
    return task


def network(code: int = 3) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder((1, 4, 4), nn.Tanh, hidden=(8,), code=code)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossEntropy()])
def test_the_loss_is_between_outputs_and_inputs(flat: bool, loss: Any) -> None:
    model = network()
    outputs = model(PIXELS)
    found, logs = Reconstruction(loss, IMAGES).loss(lambda x: outputs.flatten(1) if flat else outputs, batches(90)[0])
    torch.testing.assert_close(found, loss(outputs, PIXELS))
    assert logs["loss"].item() == found.item()
    assert not logs["loss"].requires_grad


@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossEntropy()])
def test_the_metric_is_the_squared_error_of_values_whatever_the_loss(loss: Any) -> None:
    model, task = network(), fitted(loss)
    with torch.no_grad():
        whole = task.measure(model, batches(90), "val")
        parts = task.measure(model, batches(7), "test")
        outputs = model(PIXELS)
    values = outputs.sigmoid() if isinstance(loss, BinaryCrossEntropy) else outputs
    expected = (values - PIXELS).square().sum().double() / 90
    assert list(whole.metrics) == list(task.metric_names())
    for found in (whole, parts):
        torch.testing.assert_close(found.metrics["squared_error"], expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(found.metrics["loss"], loss(outputs, PIXELS).double(), rtol=1e-5, atol=0)


def test_the_baseline_has_as_many_components_as_the_code_has_units() -> None:
    task = fitted()
    with torch.no_grad():
        found = {
            code: task.measure(network(code), batches(), "val").baseline["squared_error"].item() for code in (1, 3, 16)
        }
    mean, directions = PIXELS.flatten(1).mean(0), torch.linalg.svd(PIXELS.flatten(1) - PIXELS.flatten(1).mean(0))[2]
    for code, value in found.items():
        kept = (PIXELS.flatten(1) - mean) @ directions[:code].t()
        expected = ((PIXELS.flatten(1) - mean).square().sum() - kept.square().sum()).item() / 90
        assert value == pytest.approx(expected, abs=1e-4)


def test_images_and_rows_are_in_the_inputs_range() -> None:
    task, model = fitted(BinaryCrossEntropy()), network()
    with torch.no_grad():
        images = task.images(model, PIXELS[:2])
        assert torch.equal(images, model(PIXELS[:2]).sigmoid())
        assert list(task.rows(model(PIXELS[:2]))[1][0].values()) == images[1].flatten().tolist()


def test_the_state_brings_the_baseline_back() -> None:
    task, other = fitted(), Reconstruction(MeanSquaredError(), IMAGES)
    other.restore(task.state())
    with torch.no_grad():
        first, second = (t.measure(network(), batches(), "val").baseline["squared_error"] for t in (task, other))
    assert torch.equal(first, second)


def test_the_network_gives_back_the_inputs_shape() -> None:
    task = Reconstruction(MeanSquaredError(), IMAGES)
    assert task.out_shape() == (1, 4, 4)
    assert task.example()[0].shape == (2, 1, 4, 4)
    assert task.output_layer()[0] == "1x4x4 values, identity"

"""Outputs that look like the inputs: their range, their rows, and which losses and data they go with."""

from __future__ import annotations

import pytest
import torch

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError, DataError
from dlrun.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from dlrun.tasks.likeness import Averages, Likeness, squared_errors

IMAGES = Facts("digits", "image", (1, 2, 2), "classification", classes=("a", "b"))
TABLE = Facts("wine", "table", (3,), "classification", classes=("a", "b"), features=("acid", "ash", "hue"))
TEXT = Facts("text", "text", (8,), "language_modelling", vocabulary=5)


def test_logits_become_values_of_the_inputs_shape() -> None:
    outputs = torch.tensor([[0.0, 2.0, -2.0, 50.0]])
    values = Likeness(BinaryCrossEntropy(), "reconstruction", IMAGES).values(outputs)
    torch.testing.assert_close(values, outputs.sigmoid().view(1, 1, 2, 2))
    assert torch.equal(Likeness(MeanSquaredError(), "reconstruction", IMAGES).values(outputs), outputs.view(1, 1, 2, 2))


def test_the_output_layer_in_words() -> None:
    assert Likeness(BinaryCrossEntropy(), "reconstruction", IMAGES).output_layer()[0] == "1x2x2 values, sigmoid"
    assert Likeness(MeanSquaredError(), "reconstruction", TABLE).output_layer()[0] == "3 values, identity"


def test_rows_have_the_features_names() -> None:
    rows = Likeness(MeanSquaredError(), "reconstruction", TABLE).rows(torch.tensor([[1.0, 2.0, 3.0]]))
    assert rows == [[{"acid": 1.0, "ash": 2.0, "hue": 3.0}]]
    rows = Likeness(MeanSquaredError(), "reconstruction", IMAGES).rows(torch.zeros(2, 1, 2, 2))
    assert rows == [[{"0": 0.0, "1": 0.0, "2": 0.0, "3": 0.0}]] * 2


def test_tokens_and_other_losses_are_refused() -> None:
    with pytest.raises(ConfigError, match="the inputs of 'text' are tokens: use data of images or numbers"):
        Likeness(MeanSquaredError(), "reconstruction", TEXT)
    with pytest.raises(ConfigError, match="CrossEntropy is for classification"):
        Likeness(CrossEntropy(), "reconstruction", IMAGES)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_logits_want_values_from_0_to_1(value: float) -> None:
    def batches():  # type: ignore[no-untyped-def]
        return [(torch.rand(2, 1, 2, 2), torch.zeros(2)), (torch.full((1, 1, 2, 2), value), torch.zeros(1))]

    with pytest.raises(DataError, match=r"values from 0 to 1, and 'digits' has others: use data\.pixels=unit"):
        Likeness(BinaryCrossEntropy(), "reconstruction", IMAGES).check_range(batches)
    Likeness(BinaryCrossEntropy(), "reconstruction", IMAGES).check_range(lambda: batches()[:1])
    Likeness(MeanSquaredError(), "reconstruction", IMAGES).check_range(batches)


def test_squared_errors_are_summed_over_an_example() -> None:
    assert squared_errors(torch.ones(2, 1, 2, 2), torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)).tolist() == [0.0, 16.0]


def test_averages_weigh_batches_by_their_size() -> None:
    found = Averages()
    for part in torch.tensor([1.0, 2.0, 3.0, 10.0]).split(3):
        found.add(len(part), total=part.sum())
    assert found.mean("total").item() == 4.0
    assert found.mean("total").dtype == torch.float64
    assert Averages().mean("total").isnan()

"""Histograms of weights and gradients: odd tensors, frozen parameters, agreement with a count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.tracking.histograms import BINS, histograms, weights_and_gradients


@pytest.mark.parametrize("deterministic", [False, True])
def test_counts_are_those_by_hand(deterministic: bool) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        histogram = histograms({"weights/x": values}).value[0].histo
    finally:
        torch.use_deterministic_algorithms(before)
    below = [int((values.double() <= limit).sum()) for limit in histogram.bucket_limit]
    running = torch.tensor(list(histogram.bucket)).cumsum(0).tolist()
    assert all(abs(a - b) <= 1 for a, b in zip(below, running, strict=True))  # a value on an edge may fall either way
    assert sum(histogram.bucket) == 1000
    assert histogram.sum_squares == pytest.approx(values.square().sum().item(), rel=1e-5)


def test_histograms_of_odd_tensors() -> None:
    found = histograms(
        {"equal": torch.full((5,), 3.0), "zero": torch.zeros(4), "nan": torch.tensor([1.0, float("nan")]),
         "half": torch.ones(2, 3, dtype=torch.bfloat16), "number": torch.tensor(2.0)}
    )  # fmt: skip
    values = {value.tag: value.histo for value in found.value}
    assert set(values) == {"equal", "zero", "half", "number"}
    assert {tag: sum(h.bucket) for tag, h in values.items()} == {"equal": 5, "zero": 4, "half": 6, "number": 1}
    assert all(len(h.bucket) == len(h.bucket_limit) == BINS for h in values.values())
    assert histograms({}).value == []
    assert len(histograms({"nan": torch.tensor([float("nan")])}).value) == 0


def test_frozen_parameters_have_no_histogram() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert list(weights_and_gradients(model)) == ["weights/weight"]

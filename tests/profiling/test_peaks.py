"""Peaks by name, and one that is measured."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dlrun.profiling import peaks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA H200", "bfloat16", 989.5),
        ("NVIDIA H200", "float32", 67.0),
        ("NVIDIA H100 80GB HBM3", "tfloat32", 494.5),
        ("NVIDIA H100 PCIe", "float16", 756.5),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA A100-SXM4-80GB", "tfloat32", 156.0),
        ("Tesla V100-SXM2-16GB", "tfloat32", 15.7),
        ("Tesla T4", "float16", 65.0),
        ("NVIDIA L4", "bfloat16", 121.0),
        ("NVIDIA L40S", "bfloat16", 362.0),
        ("NVIDIA GeForce RTX 4090", "float32", 82.6),
    ],
)
def test_a_known_card_goes_by_its_data_sheet(name: str, dtype: str, tera: float) -> None:
    found = peaks.listed(name, dtype)
    assert found is not None
    assert found.flops == tera * 1e12
    assert "NVIDIA" in found.source
    assert not found.measured


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "Tesla V100S-PCIE-32GB",
        "Some other card",
    ],
)
def test_an_unknown_card_or_a_slice_of_one_is_not_guessed(name: str) -> None:
    assert peaks.listed(name, "float32") is None


def test_the_processor_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peaks.SIDE, "cpu", 64)
    monkeypatch.setattr(peaks, "LEAST_SECONDS", 0.0)
    found = peaks.peak(CPU, "float32", nullcontext())
    assert found.measured
    assert found.flops > 0
    assert found.source.endswith("float32 by 1 thread")
    assert peaks.processor()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_product_is_faster_than_the_data_sheet() -> None:
    device = torch.device("cuda")
    torch.set_float32_matmul_precision("highest")
    found = peaks.peak(device, "float32", nullcontext())
    assert peaks.measured(device, nullcontext()) < 1.05 * found.flops

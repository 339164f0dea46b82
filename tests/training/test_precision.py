"""Number formats: what runs in 16 bits, what stays in 32, and the switches of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.training.precision import FORMATS, Precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _switches_come_back() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("dtype", "outputs"),
    [
        ("float32", torch.float32),
        ("tfloat32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_the_format_of_the_forward_pass(dtype: str, outputs: torch.dtype) -> None:
    layer, context = nn.Linear(3, 2), Precision(dtype).autocast(CPU)
    for _ in range(2):  # the context is entered at every step
        with context:
            assert layer(torch.ones(1, 3)).dtype == outputs
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 3)).dtype == torch.float32


def test_only_float16_is_scaled() -> None:
    assert [Precision(dtype).scaler(CPU).is_enabled() for dtype in FORMATS] == [d == "float16" for d in FORMATS]


def test_tensor_float_is_off_unless_asked_for() -> None:
    Precision("tfloat32").prepare()
    assert torch.get_float32_matmul_precision() == "high"
    Precision("float32").prepare()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision\.dtype=float61.*did you mean 'float16'"):
        Precision("float61")

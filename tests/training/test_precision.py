"""Number formats: what runs in 16 bits, what stays in 32, and the switches of the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dlrun.build import check
from dlrun.config import compose
from dlrun.errors import ConfigError
from dlrun.identity import config_text, experiment_key, hyperparameters, identity
from dlrun.training.precision import FORMATS, WORTH, Precision
from quiet import train_short

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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


@pytest.fixture
def _with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)


class Layer(nn.Module):
    """One product of 64 by 64."""

    def __init__(self, lowest: str | None = "bfloat16") -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        if lowest is not None:
            self.lowest_precision = lowest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


# 3 passes of 2 * 64 * 64 operations an example.
ENOUGH = int(WORTH / (3 * 2 * 64 * 64)) + 1


def chosen(model: nn.Module, device: torch.device = CUDA, batch_size: int = ENOUGH, dtype: str = "auto") -> Precision:
    return Precision(dtype).settled({}, device, "layer", lambda: model, torch.zeros(2, 64), batch_size)


def test_auto_is_float32_on_the_cpu_and_asks_no_network() -> None:
    def build() -> nn.Module:
        raise AssertionError

    node: dict[str, Any] = {}
    assert Precision("auto").settled(node, CPU, "layer", build, torch.zeros(2, 64), ENOUGH).dtype == "float32"
    assert node == {"dtype": "float32"}


@pytest.mark.usefixtures("_with_bfloat16")
@pytest.mark.parametrize(
    ("lowest", "dtype", "why"),
    [
        ("bfloat16", "bfloat16", "proved equal for model=layer; 5.94 GFLOP per step in 1 products"),
        ("tfloat32", "tfloat32", "not proved equal"),
        (None, "tfloat32", "not proved equal"),
        ("float32", "float32", "needs it"),
    ],
)
def test_auto_on_a_gpu_is_the_lowest_format_that_was_proved(lowest: str | None, dtype: str, why: str) -> None:
    found = chosen(Layer(lowest))
    assert found.dtype == dtype
    assert why in found.reason


@pytest.mark.usefixtures("_with_bfloat16")
def test_a_small_step_stays_at_tensorfloat() -> None:
    found = chosen(Layer(), batch_size=ENOUGH - 1)
    assert found.dtype == "tfloat32"
    assert "too little" in found.reason


def test_a_gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert chosen(Layer()).dtype == "tfloat32"


def test_what_is_asked_for_is_taken() -> None:
    assert chosen(Layer(), dtype="float16").dtype == "float16"


def test_a_run_keeps_the_format_that_was_chosen() -> None:
    """On another device it would come to another one; config.yaml and the checkpoint hold what it came to."""
    experiment = check(compose(["trainer.device=cpu"]))
    low = replace(experiment, precision=Precision("bfloat16"))
    assert OmegaConf.create(config_text(low)).precision.dtype == "bfloat16"
    assert identity(low)["precision.dtype"] == "bfloat16"
    assert hyperparameters(low)["precision.dtype"] == "bfloat16"
    assert check(OmegaConf.create(config_text(low))).precision.dtype == "bfloat16"


def test_auto_and_what_it_comes_to_are_one_experiment() -> None:
    pair = [check(compose(["trainer.device=cpu", f"precision={name}"])) for name in ("auto", "fp32")]
    assert experiment_key(pair[0]) == experiment_key(pair[1])
    assert ("precision", "float32", "auto: on a GPU it may be lower") in pair[0].choices


def test_auto_trains_to_the_bits_of_float32(tmp_path: Path) -> None:
    found = [train_short(tmp_path / name, f"precision={name}", "trainer.device=cpu") for name in ("auto", "fp32")]
    assert found[0].metrics == found[1].metrics


def test_only_what_was_proved_may_be_lower(repository: Path) -> None:
    """A class is trusted with bfloat16 by its own source; its file's name is the family's in the proof."""
    proofs = json.loads((repository / "scripts" / "bench" / "results" / "precision.json").read_text())["families"]
    proved = {name for name, row in proofs.items() if row["equal"]}
    if not {"lstm", "gru", "rnn"} - proved:
        proved.add("recurrent_network")  # the class of all three
    marked = {
        path.stem
        for path in (repository / "src" / "dlrun" / "models").glob("*.py")
        if 'lowest_precision: ClassVar[str] = "bfloat16"' in path.read_text()
    }
    assert marked
    assert marked <= proved


def test_a_proof_needs_its_interval_within_the_margin(repository: Path) -> None:
    for row in json.loads((repository / "scripts" / "bench" / "results" / "precision.json").read_text())[
        "families"
    ].values():
        assert len(row["float32"]) == len(row["bfloat16"]) >= 5
        assert row["equal"] == (-row["margin"] < row["low"] <= row["high"] < row["margin"])

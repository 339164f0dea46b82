"""What a device can do at most: from the maker's data sheet, or measured by products of large matrices."""

from __future__ import annotations

import platform
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

# Dense products, 10^12 operations a second: (16-bit with 32-bit sums, TensorFloat-32, float32 without tensor cores), as
# the maker's data sheets have them; their figures "with sparsity" are halved. A card without a format goes by the next.
# Names are parts of torch.cuda.get_device_name(), the longer first where one holds the other.
SHEETS: dict[str, tuple[float, float | None, float, str]] = {
    "H200 NVL": (835.5, 417.5, 60.0, "NVIDIA H200 data sheet"),
    "H200": (989.5, 494.5, 67.0, "NVIDIA H200 data sheet"),
    "H100 NVL": (835.5, 417.5, 60.0, "NVIDIA H100 data sheet"),
    "H100 PCIe": (756.5, 378.0, 51.0, "NVIDIA H100 data sheet"),
    "H100": (989.5, 494.5, 67.0, "NVIDIA H100 data sheet"),
    "A100": (312.0, 156.0, 19.5, "NVIDIA A100 data sheet"),
    "V100-SXM2": (125.0, None, 15.7, "NVIDIA V100 data sheet"),
    "V100-PCIE": (112.0, None, 14.0, "NVIDIA V100 data sheet"),
    "L40S": (362.0, 183.0, 91.6, "NVIDIA L40S data sheet"),
    "L4": (121.0, 60.0, 30.3, "NVIDIA L4 data sheet"),
    "T4": (65.0, None, 8.1, "NVIDIA T4 data sheet"),
    "RTX 4090": (165.2, 82.6, 82.6, "NVIDIA Ada architecture white paper"),
    "RTX 3090": (71.0, 35.6, 35.6, "NVIDIA GA102 architecture white paper"),
}
OTHER = {"MIG", "Laptop", "D", "Ti", "SUPER", "Max", "Mobile"}  # words that make another card, or a slice, of it
SIDE = {"cpu": 1024, "cuda": 8192}
LEAST_SECONDS, LEAST_PRODUCTS = 0.4, 3


@dataclass(frozen=True)
class Peak:
    """Operations a second in one number format, and where the figure is from."""

    flops: float
    source: str
    measured: bool


def peak(device: torch.device, dtype: str, autocast: AbstractContextManager[object]) -> Peak:
    """The most that the device does in a number format of ``dlrun.training.precision``.

    Args:
        dtype: float32, tfloat32, bfloat16 or float16; its process-wide switches are set already.
        autocast: the format's context.
    """
    if device.type == "cuda":
        known = listed(torch.cuda.get_device_name(device), dtype)
        if known is not None:
            return known
    flops, side = measured(device, autocast), SIDE[device.type]
    threads = torch.get_num_threads()
    by = f" by {threads} thread{'s' if threads != 1 else ''}" if device.type == "cpu" else ""
    return Peak(flops, f"measured here: a product of {side} x {side} matrices in {dtype}{by}", True)


def listed(name: str, dtype: str) -> Peak | None:
    """The data sheet's figure for a card of this name, or None."""
    found = next((sheet for part, sheet in SHEETS.items() if _is(part, name)), None)
    if found is None:
        return None
    low, tensor, plain, source = found
    flops = {"bfloat16": low, "float16": low, "tfloat32": tensor or plain, "float32": plain}[dtype]
    return Peak(flops * 1e12, source, False)


def _is(part: str, name: str) -> bool:
    """Whether a card is of a kind: its words stand in its name, so that an L40 is no L4."""
    words = name.replace("-", " ").split()
    wanted = part.replace("-", " ").split()
    return not OTHER & set(words) and any(words[at : at + len(wanted)] == wanted for at in range(len(words)))


def measured(device: torch.device, autocast: AbstractContextManager[object]) -> float:
    """Operations a second of the fastest of a few products of square matrices."""
    side, best, spent, done = SIDE[device.type], float("inf"), 0.0, 0
    one, other = (torch.randn(side, side, device=device) for _ in range(2))
    with autocast, torch.no_grad():
        while done < LEAST_PRODUCTS or spent < LEAST_SECONDS:
            _wait(device)
            started = time.perf_counter()
            one @ other
            _wait(device)
            seconds = time.perf_counter() - started
            done, spent, best = done + 1, spent + seconds, min(best, seconds)
    return 2.0 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def processor() -> str:
    """The CPU's name, as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())

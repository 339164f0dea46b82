"""The device a run computes on."""

from __future__ import annotations

import torch

from dlrun.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU when there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"trainer.device={name}: takes cpu, cuda, cuda:1 or auto") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ConfigError(f"trainer.device={name}: takes cpu, cuda, cuda:1 or auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"trainer.device={name}: torch sees no CUDA device here; use trainer.device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"trainer.device={name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device

"""Looking at a network in the middle of its training without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def observing(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every module and the random state come back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

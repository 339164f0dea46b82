"""Histograms of a network's weights and gradients as one TensorBoard summary."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

BINS = 40


def weights_and_gradients(model: nn.Module) -> dict[str, Tensor]:
    """``weights/<name>`` and, where there is one, ``gradients/<name>`` of every trained parameter."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel():
            found[f"weights/{name}"] = parameter.detach()
            if parameter.grad is not None and not parameter.grad.is_sparse:
                found[f"gradients/{name}"] = parameter.grad.detach()
    return found


@torch.no_grad()
def histograms(tensors: dict[str, Tensor]) -> Any:
    """A ``Summary`` with one histogram of ``BINS`` equal bins for each tensor.

    The device is read twice in all: once for every tensor's range and sums, once for every tensor's counts. A tensor
    with a value that is not finite is left out.
    """
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    flat = {tag: tensor.reshape(-1).float() for tag, tensor in tensors.items()}
    if not flat:
        return Summary()
    moments = torch.stack([torch.stack([*t.aminmax(), t.sum(), t.dot(t)]) for t in flat.values()]).tolist()
    finite = {tag: m for tag, m in zip(flat, moments, strict=True) if all(map(math.isfinite, m))}
    ranges = {tag: _bounds(m[0], m[1]) for tag, m in finite.items()}
    counts = [_counts(flat[tag], low, high) for tag, (low, high) in ranges.items()]
    values = []
    for (tag, (low, high)), count in zip(ranges.items(), torch.stack(counts).tolist() if counts else [], strict=True):
        width = (high - low) / BINS
        content = HistogramProto(
            min=finite[tag][0],
            max=finite[tag][1],
            num=flat[tag].numel(),
            sum=finite[tag][2],
            sum_squares=finite[tag][3],
            bucket_limit=[low + width * (i + 1) for i in range(BINS)],
            bucket=count,
        )
        values.append(Summary.Value(tag=tag, histo=content))
    return Summary(value=values)


def _counts(values: Tensor, low: float, high: float) -> Tensor:
    # Where only deterministic kernels are allowed, torch refuses to count on a CUDA device.
    source = values.cpu() if torch.are_deterministic_algorithms_enabled() else values
    return torch.histc(source, BINS, low, high)


def _bounds(low: float, high: float) -> tuple[float, float]:
    """The range itself, or a narrow one around it when all values are equal, as ``histc`` needs a width."""
    if high > low:
        return low, high
    margin = max(abs(low) * 1e-3, 1e-6)
    return low - margin, high + margin

"""The network as a graph for TensorBoard."""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.tracking.observing import observing


def trace(model: nn.Module, inputs: Tensor) -> tuple[Any, Any]:
    """``GraphDef`` and ``RunMetadata`` of ``model`` for the first of ``inputs`` (B, ...).

    A copy on the CPU is traced, so the model keeps its state. Raises whatever tracing raises.
    """
    # The public way, SummaryWriter.add_graph, opens an event file of its own.
    from torch.utils.tensorboard._pytorch_graph import graph

    replica = copy.deepcopy(model).cpu()
    # torch's tracer prints what it also raises, and warns of its own deprecation and of every Python branch.
    with observing(replica, torch.device("cpu")), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        definition, metadata = graph(replica, (inputs[:1].detach().cpu(),))
    return definition, metadata

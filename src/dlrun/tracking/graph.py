"""The network as a graph for TensorBoard."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.tracking.observing import observing


def trace(model: nn.Module, inputs: Tensor) -> tuple[Any, Any]:
    """``GraphDef`` and ``RunMetadata`` of ``model`` for the first of ``inputs`` (B, ...).

    A copy on the CPU is traced, so the model keeps its state. Raises whatever tracing raises.
    """
    # The public way, SummaryWriter.add_graph, opens an event file of its own, and traces twice to compare, for which it
    # imports a compiler, for a second.
    from tensorboard.compat.proto.config_pb2 import RunMetadata
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.step_stats_pb2 import DeviceStepStats, StepStats
    from tensorboard.compat.proto.versions_pb2 import VersionDef
    from torch.utils.tensorboard._pytorch_graph import parse

    replica, example = copy.deepcopy(model).cpu(), (inputs[:1].detach().cpu(),)
    # torch's tracer warns of its own deprecation and of every Python branch.
    with observing(replica, torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(replica, example, check_trace=False)
        torch._C._jit_pass_inline(traced.graph)
        nodes = parse(traced.graph, traced, example)
    metadata = RunMetadata(step_stats=StepStats(dev_stats=[DeviceStepStats(device="/device:CPU:0")]))
    return GraphDef(node=nodes, versions=VersionDef(producer=22)), metadata

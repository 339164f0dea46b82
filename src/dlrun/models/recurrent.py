"""What the recurrent families share: directions, layers, the readout, and a state carried from call to call.

A family gives its cell as arithmetic (``step``) and the torch layer that holds its weights (``kernel``). Torch's fused
kernel runs, or the loop over the cell; both compute the same. A direction: s_t = step(W x_t + b, U h_(t-1) + b',
s_(t-1)), where the output h is the first part of the state s. Layers read the outputs of the layer below; the second
direction of a bidirectional network (Schuster, Paliwal 1997) reads from the last real step to the first.

Shapes: B batch, T steps, E values of one step, H units, G gates, D directions, L layers times directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError, did_you_mean

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM
BOTH_ENDS = "model.bidirectional=true reads every sequence from both ends"

WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # W, U, b, b' in torch's layers


@dataclass(frozen=True)
class Cell:
    """One family's arithmetic.

    Attributes:
        step: (W x + b (B, G*H), U h + b' (B, G*H), state of (B, H) parts) -> the next state.
        kernel: (E, H) -> torch's layer of one direction, batch first: the weights, and the fused loop.
        parts: tensors in the state.
    """

    step: Callable[[Tensor, Tensor, State], State]
    kernel: Callable[[int, int], nn.RNNBase]
    parts: int


class Direction(nn.Module):
    """One layer in one direction; ``fused`` says whether torch's kernel or the written-out loop runs."""

    def __init__(self, cell: Cell, features: int, hidden: int) -> None:
        super().__init__()
        self.step = cell.step
        self.kernel = cell.kernel(features, hidden)
        self.fused = True

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, E) and the state before it, of (B, H) parts -> (B, T, H) and the state after step T."""
        return self._fused(x, state) if self.fused else self._written_out(x, state)

    def _fused(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        start = tuple(part.unsqueeze(0) for part in state)  # (1, B, H)
        outputs, end = self.kernel(x, start if len(start) > 1 else start[0])
        return outputs, tuple(part.squeeze(0) for part in (end if len(start) > 1 else (end,)))

    def _written_out(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        into, back, into_bias, back_bias = (cast(Tensor, getattr(self.kernel, name)) for name in WEIGHTS)
        from_inputs = F.linear(x, into, into_bias)  # (B, T, E) -> (B, T, G*H): all steps in one product
        outputs = []
        for from_input in from_inputs.unbind(1):
            from_output = F.linear(state[0], back, back_bias)  # (B, H) -> (B, G*H)
            state = self.step(from_input, from_output, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state


def write_out(model: nn.Module) -> None:
    """Make every recurrent layer of a network run the loop over its cell, which ``vmap`` can batch."""
    for module in model.modules():
        if isinstance(module, Direction):
            module.fused = False


class Stack(nn.Module):
    """Layers of one or two directions, with dropout between the layers (Zaremba et al. 2014).

    Args:
        cell: the family's arithmetic.
        features: E, values of one step of the input.
        hidden: H, units of each layer and direction.
        layers: how many, at least 1.
        bidirectional: a second direction in each layer, from the last real step to the first.
        dropout: share of a layer's outputs switched off at random in training, before the next layer.

    Attributes:
        directions: D.
        width: D*H, values of one step of the output.

    Raises:
        ConfigError: no units, no layers, or ``dropout`` is no share.
    """

    def __init__(
        self, cell: Cell, features: int, hidden: int, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        if hidden < 1 or layers < 1:
            raise ConfigError(f"model.hidden={hidden} and model.layers={layers} must both be at least 1")
        if not 0 <= dropout < 1:
            raise ConfigError(
                f"model.dropout={dropout} must be at least 0 and below 1; use for example model.dropout=0.2"
            )
        self.hidden, self.parts = hidden, cell.parts
        self.directions = 2 if bidirectional else 1
        self.width = self.directions * hidden
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.ModuleList(Direction(cell, self.width if layer else features, hidden) for _ in range(self.directions))
            for layer in range(layers)
        )

    def forward(self, x: Tensor, lengths: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """Outputs of the last layer at every step, and the state after the last one.

        Args:
            x: (B, T, E).
            lengths: steps before the padding (B,); None: all. The state that is returned has seen the padding too.
            state: parts of (L, B, H) to go on from; None: zeros.

        Returns:
            (B, T, D*H), and parts of (L, B, H).

        Raises:
            ConfigError: a state for a bidirectional network.
        """
        if state is not None and self.directions == 2:
            raise ConfigError(f"{BOTH_ENDS}, so it has no state to go on from; use model.bidirectional=false")
        if state is None:
            state = (x.new_zeros(len(self.layers) * self.directions, len(x), self.hidden),) * self.parts
        starts = list(zip(*(part.unbind(0) for part in state), strict=True))  # L states of (B, H) parts
        ends: list[State] = []
        for layer in self.layers:
            x = self.dropout(x) if ends else x
            outputs = []
            for direction, turn in zip(cast(nn.ModuleList, layer), TURNS, strict=False):
                out, end = direction(turn(x, lengths), starts[len(ends)])
                outputs.append(turn(out, lengths))
                ends.append(end)
            x = torch.cat(outputs, -1)  # D times (B, T, H) -> (B, T, D*H)
        return x, tuple(torch.stack(part) for part in zip(*ends, strict=True))


def keep(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The sequences as they are."""
    return x


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence of (B, T, E) from its last real step to its first; padding stays where it is."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    back = lengths.unsqueeze(1) - 1 - steps  # (B, T), negative in the padding
    rows = torch.where(back < 0, steps, back)
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[2]))


TURNS = (keep, reverse)  # its own inverse, so the same turn brings a direction's outputs back into order


def last(x: Tensor, lengths: Tensor | None, directions: int) -> Tensor:
    """What each direction has made of the whole sequence: the last real step, and the first of the second direction."""
    ahead, *back = x.chunk(directions, -1)  # D times (B, T, H)
    if lengths is None:
        ends = ahead[:, -1]
    else:
        ends = ahead.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, ahead.shape[2])).squeeze(1)
    return torch.cat([ends, *(outputs[:, 0] for outputs in back)], -1)


def mean(x: Tensor, lengths: Tensor | None, directions: int) -> Tensor:
    """Mean over the real steps."""
    if lengths is None:
        return x.mean(1)
    return x.masked_fill(_padding(x, lengths), 0).sum(1) / lengths.unsqueeze(1)


def maximum(x: Tensor, lengths: Tensor | None, directions: int) -> Tensor:
    """Largest value of each unit over the real steps."""
    return (x if lengths is None else x.masked_fill(_padding(x, lengths), -torch.inf)).amax(1)


def _padding(x: Tensor, lengths: Tensor) -> Tensor:
    return (torch.arange(x.shape[1], device=x.device) >= lengths.unsqueeze(1)).unsqueeze(-1)  # (B, T, 1)


POOLS: Mapping[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {"last": last, "mean": mean, "max": maximum}


class PooledReadout(nn.Module):
    """One output for each sequence: the steps pooled, dropout, and a linear layer.

    Raises:
        ConfigError: no such pooling.
    """

    def __init__(self, stack: Stack, out_shape: tuple[int, ...], pool: str, dropout: float) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"model.pool={pool}: no such pooling{did_you_mean(pool, POOLS)}")
        self.directions, self.out_shape, self.pool = stack.directions, tuple(out_shape), POOLS[pool]
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(stack.width, math.prod(out_shape))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, D*H) and the steps before the padding (B,) -> (B, *out_shape)."""
        out: Tensor = self.output(self.dropout(self.pool(x, lengths, self.directions)))
        return out.unflatten(-1, self.out_shape) if self.out_shape else out.squeeze(-1)


class StepReadout(nn.Module):
    """One output for each step: dropout and the same linear layer everywhere.

    Raises:
        ConfigError: the network is bidirectional, so that it would have read what it is to predict.
    """

    def __init__(self, stack: Stack, out_shape: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        if stack.directions == 2:
            raise ConfigError(f"{BOTH_ENDS}, so it would see what it is to predict; use model.bidirectional=false")
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(stack.width, out_shape[-1])

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, H) -> (B, T, V)."""
        out: Tensor = self.output(self.dropout(x))
        return out


def readout(stack: Stack, out_shape: tuple[int, ...], per_step: bool, pool: str, dropout: float) -> nn.Module:
    """The layers from the recurrent outputs to the network's: at every step, or once for each sequence."""
    return StepReadout(stack, out_shape, dropout) if per_step else PooledReadout(stack, out_shape, pool, dropout)


class Unrolls(Protocol):
    """A network that can go on from a state."""

    def unroll(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Outputs, and the state after the last step; None starts from zeros."""
        ...


class Stateful:
    """A network whose state goes on from call to call: batches that continue one another are one long sequence.

    The gradient stops at the border between two calls. Row b of a batch continues row b of the one before; a batch
    with fewer rows continues the first of them, one with more rows starts anew from zeros.

    Attributes:
        state: parts of (L, B, H) after the last call; None before the first.
    """

    def __init__(self, model: Unrolls) -> None:
        self.model = model
        self.state: State | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, T, V)."""
        before = self.state
        if before is not None:
            before = tuple(part[:, : len(x)] for part in before) if len(x) <= before[0].shape[1] else None
        outputs, after = self.model.unroll(x, before)
        self.state = tuple(part.detach() for part in after)
        return outputs

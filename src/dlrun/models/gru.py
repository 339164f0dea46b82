"""The gated recurrent unit: one state that a gate replaces in part.

r = s(W_r x + b_r + U_r h + b'_r), z likewise; n = tanh(W_n x + b_n + r (U_n h + b'_n)); h' = (1 - z) n + z h, with s
the logistic function.
Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
Differs from it in: 1. the reset gate r acts after the product with U_n, not before it, as in the fused kernels;
2. two biases for each gate and a start uniform in +-1/sqrt(H), as in ``torch.nn.GRU``.

Shapes: B batch, H units.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from dlrun.models.recurrent import Cell, State
from dlrun.models.recurrent_network import RecurrentNetwork


def gru_step(from_input: Tensor, from_output: Tensor, state: State) -> State:
    """Gates from the input and from the last output (B, 3*H each), state (h,) of (B, H) -> the next state."""
    (hidden,) = state
    reset_x, keep_x, new_x = from_input.chunk(3, -1)  # (B, H) each
    reset_h, keep_h, new_h = from_output.chunk(3, -1)
    keep = (keep_x + keep_h).sigmoid()
    new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
    return ((1 - keep) * new + keep * hidden,)


GRU_CELL = Cell(gru_step, lambda features, hidden: nn.GRU(features, hidden, batch_first=True), parts=1)
GRU = partial(RecurrentNetwork, {"tanh": GRU_CELL})

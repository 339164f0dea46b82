"""Long short-term memory: a cell that keeps its content until a gate lets something in or out.

i = s(W_i x + b_i + U_i h + b'_i), f and o likewise; g = tanh(W_g x + b_g + U_g h + b'_g); c' = f c + i g;
h' = o tanh(c'), with s the logistic function.
Source: S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997, with the forget gate of
F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12(10), 2000.
Differs from them in: 1. the gradient runs through all of the cell, not through c alone (Graves, Schmidhuber 2005);
2. no peephole connections; 3. two biases for each gate and a start uniform in +-1/sqrt(H), as in ``torch.nn.LSTM``.

Shapes: B batch, H units.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from dlrun.models.recurrent import Cell, State
from dlrun.models.recurrent_network import RecurrentNetwork


def lstm_step(from_input: Tensor, from_output: Tensor, state: State) -> State:
    """Gates from the input and from the last output (B, 4*H each), state (h, c) of (B, H) -> the next state."""
    _, memory = state
    enter, forget, content, leave = (from_input + from_output).chunk(4, -1)  # (B, H) each
    memory = forget.sigmoid() * memory + enter.sigmoid() * content.tanh()
    return leave.sigmoid() * memory.tanh(), memory


LSTM_CELL = Cell(lstm_step, lambda features, hidden: nn.LSTM(features, hidden, batch_first=True), parts=2)
LSTM = partial(RecurrentNetwork, {"tanh": LSTM_CELL})

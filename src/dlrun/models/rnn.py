"""The simple recurrent network of Elman: the hidden units of one step are inputs of the next.

h' = f(W x + b + U h + b').
Source: J. Elman, "Finding structure in time", Cognitive Science 14(2), 1990.
Differs from it in: 1. the gradient runs back through all steps, not through one; 2. f is tanh or the rectifier, not the
logistic function; 3. two biases and a start uniform in +-1/sqrt(H), as in ``torch.nn.RNN``.

Shapes: B batch, H units.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dlrun.models.recurrent import Cell, State
from dlrun.models.recurrent_network import RecurrentNetwork


def tanh_step(from_input: Tensor, from_output: Tensor, state: State) -> State:
    """Sums from the input and from the last output (B, H each) -> the next state (h,)."""
    return ((from_input + from_output).tanh(),)


def relu_step(from_input: Tensor, from_output: Tensor, state: State) -> State:
    """The same with the rectifier (Le, Jaitly, Hinton 2015)."""
    return ((from_input + from_output).relu(),)


def elman(step: Callable[[Tensor, Tensor, State], State], nonlinearity: str) -> Cell:
    """The cell with one of the two functions that torch's kernel knows."""
    return Cell(step, lambda features, hidden: nn.RNN(features, hidden, nonlinearity=nonlinearity, batch_first=True), 1)


CELLS = {"tanh": elman(tanh_step, "tanh"), "relu": elman(relu_step, "relu")}
RNN = partial(RecurrentNetwork, CELLS)

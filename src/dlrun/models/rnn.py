"""The simple recurrent network of Elman: the hidden units of one step are inputs of the next.

h' = f(W x + b + U h + b').
Source: J. Elman, "Finding structure in time", Cognitive Science 14(2), 1990.
Differs from it in: 1. the gradient runs back through all steps, not through one; 2. f is tanh or the rectifier, not the
logistic function; 3. two biases and a start uniform in +-1/sqrt(H), as in ``torch.nn.RNN``.

Shapes: B batch, T steps, E values of one step, H units, L layers times directions, N outputs of one example.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dlrun.errors import ConfigError, did_you_mean
from dlrun.models.recurrent import Cell, Stack, State, readout
from dlrun.models.sequence import SequenceInput


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


class RNN(nn.Module):
    """Layers of simple recurrent units and a linear output.

    Args:
        in_shape: shape of one example: tokens (T,), a series (T, E), or a picture (C, H, W) read column by column.
        out_shape: shape of its outputs.
        vocabulary: number of tokens; 0: the input is numbers.
        padding: token that fills up short sequences on the right.
        per_step: one output for each step, as a language model needs it, in place of one for the sequence.
        hidden: units of each layer and direction.
        layers: layers on top of one another.
        bidirectional: a second direction in each layer, from the end of the sequence to its start.
        dropout: share of the outputs of every layer switched off at random in training.
        embedding: values of a token's vector.
        pool: what the output of a sequence is computed from: its ``last`` step (of each direction), or the ``mean`` or
            ``max`` over its steps.
        nonlinearity: of the hidden units, ``tanh`` or ``relu``.

    Raises:
        ConfigError: a size or share out of its range, an unknown name, or ``bidirectional`` together with ``per_step``.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        vocabulary: int = 0,
        padding: int | None = None,
        per_step: bool = False,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        embedding: int = 64,
        pool: str = "last",
        nonlinearity: str = "tanh",
    ) -> None:
        super().__init__()
        if nonlinearity not in CELLS:
            raise ConfigError(f"model.nonlinearity={nonlinearity}: no such function{did_you_mean(nonlinearity, CELLS)}")
        self.input = SequenceInput(in_shape, vocabulary, padding, embedding)
        self.stack = Stack(CELLS[nonlinearity], self.input.features, hidden, layers, bidirectional, dropout)
        self.readout = readout(self.stack, out_shape, per_step, pool, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, *out_shape)."""
        return self.unroll(x, None)[0]

    def unroll(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Outputs, and the state (h,) of (L, B, H) after the last step; None starts from zeros.

        Raises:
            ConfigError: a state for a bidirectional network.
        """
        lengths = self.input.lengths(x)
        outputs, after = self.stack(self.input(x), lengths, state)
        return self.readout(outputs, lengths), after

"""Long short-term memory: a cell that keeps its content until a gate lets something in or out.

i = s(W_i x + b_i + U_i h + b'_i), f and o likewise; g = tanh(W_g x + b_g + U_g h + b'_g); c' = f c + i g;
h' = o tanh(c'), with s the logistic function.
Source: S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997, with the forget gate of
F. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12(10), 2000.
Differs from them in: 1. the gradient runs through all of the cell, not through c alone (Graves, Schmidhuber 2005);
2. no peephole connections; 3. two biases for each gate and a start uniform in +-1/sqrt(H), as in ``torch.nn.LSTM``.

Shapes: B batch, T steps, E values of one step, H units, L layers times directions, N outputs of one example.
"""

from __future__ import annotations

from torch import Tensor, nn

from dlrun.models.recurrent import Cell, Stack, State, readout
from dlrun.models.sequence import SequenceInput


def lstm_step(from_input: Tensor, from_output: Tensor, state: State) -> State:
    """Gates from the input and from the last output (B, 4*H each), state (h, c) of (B, H) -> the next state."""
    _, memory = state
    enter, forget, content, leave = (from_input + from_output).chunk(4, -1)  # (B, H) each
    memory = forget.sigmoid() * memory + enter.sigmoid() * content.tanh()
    return leave.sigmoid() * memory.tanh(), memory


LSTM_CELL = Cell(lstm_step, lambda features, hidden: nn.LSTM(features, hidden, batch_first=True), parts=2)


class LSTM(nn.Module):
    """Layers of long short-term memory and a linear output.

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
    ) -> None:
        super().__init__()
        self.input = SequenceInput(in_shape, vocabulary, padding, embedding)
        self.stack = Stack(LSTM_CELL, self.input.features, hidden, layers, bidirectional, dropout)
        self.readout = readout(self.stack, out_shape, per_step, pool, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, *out_shape)."""
        return self.unroll(x, None)[0]

    def unroll(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Outputs, and the state (h, c) of (L, B, H) each after the last step; None starts from zeros.

        Raises:
            ConfigError: a state for a bidirectional network.
        """
        lengths = self.input.lengths(x)
        outputs, after = self.stack(self.input(x), lengths, state)
        return self.readout(outputs, lengths), after

"""The gated recurrent unit: one state that a gate replaces in part.

r = s(W_r x + b_r + U_r h + b'_r), z likewise; n = tanh(W_n x + b_n + r (U_n h + b'_n)); h' = (1 - z) n + z h, with s
the logistic function.
Source: K. Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
Differs from it in: 1. the reset gate r acts after the product with U_n, not before it, as in the fused kernels;
2. two biases for each gate and a start uniform in +-1/sqrt(H), as in ``torch.nn.GRU``.

Shapes: B batch, T steps, E values of one step, H units, L layers times directions, N outputs of one example.
"""

from __future__ import annotations

from torch import Tensor, nn

from dlrun.models.recurrent import Cell, Stack, State, readout
from dlrun.models.sequence import SequenceInput


def gru_step(from_input: Tensor, from_output: Tensor, state: State) -> State:
    """Gates from the input and from the last output (B, 3*H each), state (h,) of (B, H) -> the next state."""
    (hidden,) = state
    reset_x, keep_x, new_x = from_input.chunk(3, -1)  # (B, H) each
    reset_h, keep_h, new_h = from_output.chunk(3, -1)
    keep = (keep_x + keep_h).sigmoid()
    new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
    return ((1 - keep) * new + keep * hidden,)


GRU_CELL = Cell(gru_step, lambda features, hidden: nn.GRU(features, hidden, batch_first=True), parts=1)


class GRU(nn.Module):
    """Layers of gated recurrent units and a linear output.

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
        self.stack = Stack(GRU_CELL, self.input.features, hidden, layers, bidirectional, dropout)
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

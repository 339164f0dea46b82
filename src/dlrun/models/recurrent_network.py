"""A recurrent network whole: what it reads, its layers of one family's cells, and its readout.

Shapes: B batch, T steps, E values of one step, H units, L layers times directions, N outputs of one example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from dlrun.errors import ConfigError, did_you_mean
from dlrun.models.recurrent import Cell, Stack, State, readout
from dlrun.models.sequence import SequenceInput


class RecurrentNetwork(nn.Module):
    """Layers of recurrent units and a linear output; ``rnn.py``, ``gru.py`` and ``lstm.py`` give it their cells.

    Args:
        cells: the family's arithmetic, by the function of its hidden units.
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
        nonlinearity: of the hidden units; every family has ``tanh``.

    Raises:
        ConfigError: a size or share out of its range, an unknown name, or ``bidirectional`` together with ``per_step``.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved for all three: scripts/precision_proof.py

    def __init__(
        self,
        cells: Mapping[str, Cell],
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
        if nonlinearity not in cells:
            raise ConfigError(f"model.nonlinearity={nonlinearity}: no such function{did_you_mean(nonlinearity, cells)}")
        self.input = SequenceInput(in_shape, vocabulary, padding, embedding)
        self.stack = Stack(cells[nonlinearity], self.input.features, hidden, layers, bidirectional, dropout)
        self.readout = readout(self.stack, out_shape, per_step, pool, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, *out_shape)."""
        return self.unroll(x, None)[0]

    def unroll(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Outputs, and the state's parts of (L, B, H) each after the last step; None starts from zeros.

        Raises:
            ConfigError: a state for a bidirectional network.
        """
        lengths = self.input.lengths(x)
        outputs, after = self.stack(self.input(x), lengths, state)
        return self.readout(outputs, lengths), after

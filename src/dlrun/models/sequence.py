"""How sequence models read their data: tokens, series and pictures become one sequence of vectors.

Shapes: B batch, T steps, E values of one step, V tokens of the vocabulary, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError


class SequenceInput(nn.Module):
    """One vector for each step of the input, whatever the input is.

    Tokens (B, T) are looked up in a table; series (B, T, E) stay as they are; pictures and spectrograms (B, C, H, W)
    are read column by column, left to right, as T = W steps of E = C*H values; rows of a table (B, T) are T steps of
    one value.

    Args:
        in_shape: shape of one example.
        vocabulary: number of tokens; 0: the input is numbers.
        padding: token that fills up short sequences on the right; its vector is zero and stays so.
        width: values of a token's vector; for tokens alone.

    Attributes:
        steps: T.
        features: E.

    Raises:
        ConfigError: ``width`` is below 1, or the data has no sequence in it.
    """

    def __init__(self, in_shape: tuple[int, ...], vocabulary: int, padding: int | None, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"a token's vector cannot have {width} values; use for example model.embedding=64")
        if not 1 <= len(in_shape) <= 3 or 0 in in_shape or (vocabulary and len(in_shape) != 1):
            raise ConfigError(f"examples of shape {tuple(in_shape)} are no sequences; model=mlp takes any shape")
        self.padding = padding if vocabulary else None
        self.table = nn.Embedding(vocabulary, width, padding_idx=padding) if vocabulary else None
        if self.table is not None:
            self.steps, self.features = in_shape[0], width
        elif len(in_shape) == 3:
            self.steps, self.features = in_shape[2], in_shape[0] * in_shape[1]
        else:
            self.steps, self.features = (*in_shape, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, T, E)."""
        if self.table is not None:
            vectors: Tensor = self.table(x)  # (B, T) -> (B, T, E)
            return vectors
        if x.dim() == 4:
            return x.permute(0, 3, 1, 2).flatten(2)  # (B, C, H, W) -> (B, W, C*H)
        return x if x.dim() == 3 else x.unsqueeze(-1)  # (B, T) -> (B, T, 1)

    def lengths(self, x: Tensor) -> Tensor | None:
        """Number of steps before the padding, (B,) int64 and at least 1; None where nothing is padded.

        Computed on the device: nothing waits for it.
        """
        return None if self.padding is None else (x != self.padding).sum(1).clamp(min=1)

    def mask(self, x: Tensor) -> Tensor | None:
        """True at the steps before the padding, (B, T); the first step always is. None where nothing is padded."""
        lengths = self.lengths(x)
        return None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)

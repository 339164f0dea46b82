"""The patch transformer (PatchTST): stretches of a series are the words, and every column is a sentence of its own.

x~ = (x - mean(x)) / std(x) over the window, column by column; patches of P rows, one every S; x_0 = W_p patch + W_pos;
transformer encoder; forecast = (W vec(x_L) + b) std(x) + mean(x), the same weights for every column.
Source: Y. Nie, N. Nguyen, P. Sinthong, J. Kalagnanam, "A Time Series is Worth 64 Words", ICLR 2023 (arXiv 2211.14730),
section 3.1, supervised, with the sizes of their code for ETTh1 (width 16, 4 heads, 3 layers, dropout 0.3).
Differs from it in: 1. pre-norm blocks with layer normalisation for post-norm with batch normalisation; 2. the scores of
attention are not handed on from block to block; 3. the perceptron in a block has 4 W hidden units (theirs 8 W); 4. a
patch that overlaps the window's end by S repeated values comes last, as in their code.

Shapes: B batch, L rows looked back on, H rows ahead, F columns of which the first D are targets, N patches, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError
from dlrun.models.attention import Block
from dlrun.models.dlinear import series_shape
from dlrun.models.transformer import LearnedPositions

DEVIATION = 0.02  # of the positions at the start
TINY = 1e-5  # added to the window's variance, as in the authors' code


class PatchTransformer(nn.Module):
    """Instance normalisation, patches, an encoder over each column alone, and one linear layer to all rows ahead.

    Args:
        in_shape: (L, F) of one window.
        target_shape: (H, D) of what follows.
        activation: makes the activation of each block's perceptron.
        patch: P, rows of a patch.
        stride: S, rows from the start of one patch to the next one's.
        layers: number of blocks.
        heads: attention heads of a block.
        width: W, values of each patch.
        dropout: share switched off at random in training.

    Raises:
        ConfigError: the data are no series, a window is shorter than a patch, or a number is out of its range.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        target_shape: tuple[int, ...],
        activation: Callable[[], nn.Module],
        patch: int = 16,
        stride: int = 8,
        layers: int = 3,
        heads: int = 4,
        width: int = 16,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        length, horizon, self.columns = series_shape(in_shape, target_shape, "patch_transformer")
        if not 1 <= stride <= patch <= length:
            raise ConfigError(
                f"model.patch={patch} and model.stride={stride}: a patch is at most the {length} rows looked back on, "
                f"and a stride at most a patch; use for example model.patch={max(1, min(16, length // 2))} "
                f"model.stride={max(1, min(8, length // 4))}"
            )
        if layers < 1:
            raise ConfigError(f"model.layers={layers} must be at least 1; use for example model.layers=3")
        self.patch, self.stride = patch, stride
        count = (length - patch) // stride + 2  # with the one that overlaps the end
        self.enter = nn.Linear(patch, width)
        self.positions = LearnedPositions(count, width)
        nn.init.normal_(self.positions.table.weight, std=DEVIATION)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, activation, dropout, causal=False, rotary=False) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(count * width, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, F) -> (B, H, D)."""
        x = x[..., : self.columns].transpose(1, 2)  # (B, D, L)
        mean = x.mean(-1, keepdim=True)
        deviation = (x.var(-1, correction=0, keepdim=True) + TINY).sqrt()
        pieces = self._patches((x - mean) / deviation)  # (B, D, N, P)
        hidden = self.dropout(self.positions(self.enter(pieces.flatten(0, 1))))  # (B*D, N, W)
        for block in self.blocks:
            hidden = block(hidden)
        ahead: Tensor = self.output(self.norm(hidden).flatten(1)).view(*x.shape[:2], -1)  # (B, D, H)
        return (ahead * deviation + mean).transpose(1, 2)

    def _patches(self, x: Tensor) -> Tensor:
        """(B, D, L) -> (B, D, N, P), the last value repeated ``stride`` times beyond the end."""
        beyond = x[..., -1:].expand(*x.shape[:-1], self.stride)
        return torch.cat([x, beyond], dim=-1).unfold(-1, self.patch, self.stride)

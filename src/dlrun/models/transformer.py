"""The decoder-only transformer: each position predicts the token that follows it, from itself and those before.

x_0 = E[token] + P[t]; x_l = block_l(x_(l-1)), which adds causal self-attention and then a perceptron; the scores are
W norm(x_L). Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, in the form
of A. Karpathy's nanoGPT; the attention is that of Vaswani et al. 2017, see ``attention.py``.
Weights start as in GPT-2: normal with deviation 0.02, biases at zero, and the two layers of each block whose outputs
are added to x at 0.02 / sqrt(2 L), so that the sum of 2 L such terms does not grow with the depth. W is E by default
("tied": Press and Wolf 2017, arXiv 1608.05859).

Differs from GPT-2 in: 1. any size and activation (its own is the GELU: activation=gelu); 2. rotary instead of learned
positions on request (Su et al. 2021); 3. an output table of its own on request. From nanoGPT in: layers have biases.

Shapes: B batch, T positions, W width, V tokens, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError, did_you_mean
from dlrun.models.attention import Block

DEVIATION = 0.02


class Transformer(nn.Module):
    """Token and position tables, L causal blocks, a last normalisation and a score for every token.

    Args:
        in_shape: (T,), the positions it can look back over.
        vocabulary: V, the number of tokens.
        per_step: whether an output is wanted at each position.
        activation: makes the activation of each block's perceptron.
        layers: L, the number of blocks.
        heads: attention heads of a block.
        width: W, values of each position.
        dropout: share switched off at random in training: of the embedding, the attention and what each block adds.
        positions: ``learned``, a table of T vectors, or ``rotary``, queries and keys turned by their position.
        tied: the output's weights are the token table.

    Attributes:
        context: T.

    Raises:
        ConfigError: the data has no tokens, not every position is to be answered, or a number is out of its range.
    """

    lowest_precision: ClassVar[str] = "bfloat16"  # proved: scripts/precision_proof.py

    def __init__(
        self,
        in_shape: tuple[int, ...],
        vocabulary: int,
        per_step: bool,
        activation: Callable[[], nn.Module],
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        positions: str = "learned",
        tied: bool = True,
    ) -> None:
        super().__init__()
        if not vocabulary or not per_step or len(in_shape) != 1:
            raise ConfigError(
                "model=transformer predicts the token after each token of a text, so it needs data=text; use "
                "model=transformer_encoder for one answer per sequence"
            )
        if positions not in POSITIONS:
            raise ConfigError(f"model.positions={positions}: no such positions{did_you_mean(positions, POSITIONS)}")
        if layers < 1:
            raise ConfigError(f"model.layers={layers} must be at least 1; use for example model.layers=4")
        self.context = in_shape[0]
        rotary = positions == "rotary"
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = POSITIONS[positions](self.context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, activation, dropout, causal=True, rotary=rotary) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = None if tied else nn.Linear(width, vocabulary, bias=False)
        start_as_gpt2(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T'), T' up to T, int64 -> scores (B, T', V) of each one's successor."""
        hidden = self.dropout(self.positions(self.tokens(x)))  # (B, T', W)
        for block in self.blocks:
            hidden = block(hidden)
        table = self.tokens.weight if self.output is None else self.output.weight
        return F.linear(self.norm(hidden), table)


class LearnedPositions(nn.Module):
    """x + P[0 .. T'-1]: a vector for each position, learnt like the tokens' ones."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(context, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T', W) -> (B, T', W), T' up to the context."""
        return x + self.table.weight[: x.shape[1]]


class NoPositions(nn.Module):
    """x as it is: the attention turns its queries and keys instead, and any length is possible."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T', W) -> (B, T', W)."""
        return x


POSITIONS: dict[str, Callable[[int, int], nn.Module]] = {"learned": LearnedPositions, "rotary": NoPositions}


@torch.no_grad()
def start_as_gpt2(model: nn.Module, layers: int) -> None:
    """Normal weights of deviation 0.02 and zero biases; what is added to the residual starts smaller, see above."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=DEVIATION)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Block):
            for layer in module.onto_the_residual():
                nn.init.normal_(layer.weight, std=DEVIATION / math.sqrt(2 * layers))

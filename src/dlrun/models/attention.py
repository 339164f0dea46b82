"""Self-attention, and the block that every transformer here is a stack of.

Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V, in several heads side by side.
Source: A. Vaswani et al., "Attention Is All You Need", NIPS 2017 (arXiv 1706.03762), equation (1) and section 3.2.2.
Rotary positions: J. Su et al., "RoFormer", 2021 (arXiv 2104.09864), equation (34): the pair (2i, 2i+1) of a query or
key at position t is turned by the angle t / 10000^(2i/d), so that a product of two sees their distance alone.

Differs from Vaswani et al. in: 1. normalisation before attention and perceptron instead of after (pre-norm: Xiong et
al. 2020, arXiv 2002.04745), so the stack needs a normalisation at its end; 2. any activation; 3. dropout on the
attention weights too.

Shapes: B batch, T positions, W width, H heads, d = W / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError

ROTARY_BASE = 10_000.0


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)) with 4 W hidden units.

    Args:
        width: W, values of each position.
        heads: H, which must divide the width.
        activation: makes the perceptron's activation; GPT-2 has the GELU.
        dropout: share switched off in training: of the attention weights and of what either half adds.
        causal: a position sees itself and those before it, and none after.
        rotary: turn queries and keys by their position; otherwise the caller adds positions to x.

    Raises:
        ConfigError: the heads do not divide the width, the halves of a rotary head are uneven, or no share.
    """

    def __init__(
        self, width: int, heads: int, activation: Callable[[], nn.Module], dropout: float, causal: bool, rotary: bool
    ) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout, causal, rotary)
        self.before_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, W) -> (B, T, W); ``mask`` (B, T) bool is true where a token is real and false at padding."""
        x = x + self.dropout(self.attention(self.before_attention(x), mask))
        out: Tensor = x + self.dropout(self.perceptron(self.before_perceptron(x)))
        return out

    def onto_the_residual(self) -> tuple[nn.Linear, nn.Linear]:
        """The two layers whose outputs are added to x: GPT-2 starts them smaller, the deeper the stack."""
        last = self.perceptron[-1]
        assert isinstance(last, nn.Linear)
        return self.attention.output, last


class SelfAttention(nn.Module):
    """Each position asks all positions it may see, in H heads of W / H values; arguments as those of ``Block``."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool, rotary: bool) -> None:
        super().__init__()
        check_sizes(width, heads, dropout, rotary)
        self.heads, self.dropout, self.causal, self.rotary = heads, dropout, causal, rotary
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, W) -> (B, T, W); ``mask`` (B, T) bool is true where a token is real."""
        batch, length, width = x.shape
        split = self.queries_keys_values(x).view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, H, T, d)
        if self.rotary:
            cosine, sine = rotation(length, width // self.heads, x)
            queries, keys = rotate(queries, cosine, sine), rotate(keys, cosine, sine)
        dropout = self.dropout if self.training else 0.0
        # vmap has no rule for the CPU's fused kernel and would loop over the packed trials with a warning.
        packed = torch._C._functorch.is_batchedtensor(queries)
        attended = (written_out if packed else fused)(queries, keys, values, self.causal, mask, dropout)
        out: Tensor = self.output(attended.transpose(1, 2).reshape(batch, length, width))
        return out


def written_out(
    queries: Tensor, keys: Tensor, values: Tensor, causal: bool, mask: Tensor | None, dropout: float
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V as the paper writes it, equation (1): (B, H, T, d) -> (B, H, T, d)."""
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])  # (B, H, T, T)
    if (seen := visible(causal, mask, queries)) is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return F.dropout(scores.softmax(dim=-1), dropout) @ values


def fused(queries: Tensor, keys: Tensor, values: Tensor, causal: bool, mask: Tensor | None, dropout: float) -> Tensor:
    """The same by torch's kernel, which keeps no (T, T) weights: (B, H, T, d) -> (B, H, T, d)."""
    if mask is None:
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=causal)
    seen = visible(causal, mask, queries)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, dropout_p=dropout)


def visible(causal: bool, mask: Tensor | None, queries: Tensor) -> Tensor | None:
    """Which key each query may see, bool that broadcasts to (B, H, T, T); None when all see all.

    A position always sees itself: a row of padding alone would otherwise be a softmax over nothing, which is NaN.
    """
    length = queries.shape[-2]
    triangle = torch.ones(length, length, dtype=torch.bool, device=queries.device).tril() if causal else None
    if mask is None:
        return triangle
    itself = torch.eye(length, dtype=torch.bool, device=queries.device)
    real = mask[:, None, None, :] | itself  # (B, 1, T, T)
    return real if triangle is None else real & triangle


def rotation(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, d/2) of each position's angles, in float32 and then in the type of ``like``."""
    pairs = torch.arange(0, size, 2, device=like.device, dtype=torch.float32)
    places = torch.arange(length, device=like.device, dtype=torch.float32)
    angles = torch.outer(places, ROTARY_BASE ** (-pairs / size))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of neighbouring values (B, H, T, d) by its position's angle; lengths and shapes stay."""
    first, second = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return turned.flatten(-2)


def check_sizes(width: int, heads: int, dropout: float, rotary: bool) -> None:
    """Refuse sizes that no attention has, naming the keys.

    Raises:
        ConfigError: see ``Block``.
    """
    if heads < 1 or width < 1 or width % heads:
        fitting = max((h for h in range(1, max(heads, 1) + 1) if width % h == 0), default=1)
        raise ConfigError(
            f"model.heads={heads} must divide model.width={width} into equal parts; use for example "
            f"model.heads={fitting} model.width={max(width, 1)}"
        )
    if rotary and width // heads % 2:
        raise ConfigError(
            f"rotary positions turn pairs of values, but model.width={width} in model.heads={heads} heads is "
            f"{width // heads} values each; use an even number, for example model.width={2 * width}"
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout={dropout} must be at least 0 and below 1; use for example model.dropout=0.1")

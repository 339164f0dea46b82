"""Counter-based random numbers: a hash of (seed, epoch, example) in place of a generator with a state.

A number drawn here depends on what it is for and on nothing else, so it is the same whatever the batch size, the number
of workers, the device or the step a run was resumed at.

Source: the two-round 32-bit mixer ``x ^= x >> 16; x *= a; x ^= x >> 15; x *= b; x ^= x >> 15`` of C. Wellons'
hash-prospector (constants 0x21f0aaad, 0x735a2d97). Both constants are below 2^31, so a product of one with a 32-bit
word fits int64 and no step relies on overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
_A, _B = 0x21F0AAAD, 0x735A2D97
_STRIDE = 0x9E3779B9  # the golden ratio in 32 bits: consecutive draws land far apart


def mix(*numbers: int) -> int:
    """Hash integers into one in [0, 2^63), usable as a generator's seed; the order of the numbers matters."""
    low, high = 0x243F6A88, 0x13198A2E
    for number in numbers:
        low = _scramble(low ^ (number & WORD))
        high = _scramble((high + low + (number >> 32)) & WORD)
        low = _scramble((low + high) & WORD)
    return ((high << 32) | low) & 0x7FFFFFFFFFFFFFFF


def uniform(key: int | Tensor, indices: Tensor, draws: int) -> Tensor:
    """Return (draws, B) float32 numbers in [0, 1), a function of ``key``, draw and example index (B,) int64.

    The key may be a 0-d int64 tensor on the device of the indices: the same numbers.
    """
    words = _scramble_tensor((indices & WORD) ^ (key & WORD))
    counters = torch.arange(1, draws + 1, device=indices.device).unsqueeze(1) * _STRIDE
    words = _scramble_tensor(((words + counters) & WORD) ^ (key >> 32))  # (draws, B)
    return (words >> 8).to(torch.float32) * 2.0**-24


def _scramble(x: int) -> int:
    x = ((x ^ (x >> 16)) * _A) & WORD
    x = ((x ^ (x >> 15)) * _B) & WORD
    return x ^ (x >> 15)


def _scramble_tensor(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * _A) & WORD
    x = ((x ^ (x >> 15)) * _B) & WORD
    return x ^ (x >> 15)

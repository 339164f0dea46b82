"""The mel scale and log-mel spectrograms.

Source: M. Slaney, "Auditory Toolbox", Interval Research report 1998-010: straight to 1,000 Hz (15 mel), logarithmic
above, triangles of equal area. Differs in: 1. the bands share the whole range from 0 Hz to half the rate.

Legend: B batch, S samples, K frequencies of the Fourier transform, M bands, T frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HERTZ_PER_MEL = 200 / 3
KNEE = 1000.0  # Hz, where the logarithm begins
STEP = math.log(6.4) / 27  # of one mel above it
WINDOW, HOP = 0.025, 0.010  # seconds of one frame, and from one frame to the next
FLOOR = 1e-6  # added to the power before its logarithm; full scale is 1


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Frequencies in Hz to mel, in float64."""
    hertz = hertz.double()
    above = KNEE / HERTZ_PER_MEL + torch.log(hertz.clamp_min(KNEE) / KNEE) / STEP
    return torch.where(hertz < KNEE, hertz / HERTZ_PER_MEL, above)


def mel_to_hertz(mel: Tensor) -> Tensor:
    """The inverse of ``hertz_to_mel``."""
    mel = mel.double()
    above = KNEE * torch.exp(STEP * (mel - KNEE / HERTZ_PER_MEL))
    return torch.where(mel < KNEE / HERTZ_PER_MEL, mel * HERTZ_PER_MEL, above)


def mel_filters(bands: int, size: int, rate: int) -> Tensor:
    """Weights (K, M) that sum the power at K = size / 2 + 1 frequencies into M bands, float64.

    Band m is a triangle from edge m over edge m + 1 to edge m + 2, the edges evenly spaced in mel, and its area in Hz
    is 1.
    """
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    top = hertz_to_mel(torch.tensor(rate / 2))
    edges = mel_to_hertz(torch.linspace(0, 1, bands + 2, dtype=torch.float64) * top)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - left) / (centre - left)
    falling = (right - frequencies[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0) * 2 / (right - left)


def frame_sizes(rate: int) -> tuple[int, int, int]:
    """Samples of a window, of a hop, and of the transform the window is padded to.

    Padding to more than twice the window puts a frequency into each of the narrow bands at the bottom.
    """
    window = round(WINDOW * rate)
    return window, round(HOP * rate), 2 ** math.ceil(math.log2(2 * window))


def frames(samples: int, rate: int) -> int:
    """T for S samples: one frame at the start, and one for each whole hop."""
    return 1 + samples // frame_sizes(rate)[1]


def log_mel(waves: Tensor, filters: Tensor, window: Tensor, rate: int) -> Tensor:
    """Sound (B, S), full scale 1, to the logarithm of the power in each band and frame, (B, M, T).

    Frames are centred on multiples of the hop, and silence surrounds the recording. ``window`` (of ``frame_sizes``) and
    ``filters`` (of ``mel_filters``) lie on the sound's device.
    """
    length, hop, size = frame_sizes(rate)
    spectrum = torch.stft(
        waves, size, hop, length, window, center=True, pad_mode="constant", return_complex=True
    )  # (B, K, T)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log(filters.T @ power + FLOOR)

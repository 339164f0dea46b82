"""The mel scale against librosa's documented values, the filters by their definition, the spectrogram against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlrun.data.mel import FLOOR, frame_sizes, frames, hertz_to_mel, log_mel, mel_filters, mel_to_hertz

# librosa.mel_frequencies(n_mels=40), from its documentation (Slaney's scale, 0 to 11,025 Hz)
LIBROSA = [
    0.0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538, 767.855, 853.173, 938.49, 1024.856,
    1119.114, 1222.042, 1334.436, 1457.167, 1591.187, 1737.532, 1897.337, 2071.84, 2262.393, 2470.47, 2697.686,
    2945.799, 3216.731, 3512.582, 3835.643, 4188.417, 4573.636, 4994.285, 5453.621, 5955.205, 6502.92, 7101.009,
    7754.107, 8467.272, 9246.028, 10096.408, 11025.0,
]  # fmt: skip


def test_the_scale_is_librosa_s() -> None:
    spaced = torch.linspace(0, 1, 40, dtype=torch.float64) * hertz_to_mel(torch.tensor(11025.0))
    np.testing.assert_allclose(mel_to_hertz(spaced).numpy(), LIBROSA, atol=5e-4)
    np.testing.assert_allclose(hertz_to_mel(torch.tensor([60.0, 110, 220, 440])).numpy(), [0.9, 1.65, 3.3, 6.6])
    assert float(hertz_to_mel(torch.tensor(1000.0))) == pytest.approx(15.0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_the_scale_and_its_inverse(rate: int) -> None:
    hertz = torch.linspace(0, rate / 2, 500, dtype=torch.float64)
    torch.testing.assert_close(mel_to_hertz(hertz_to_mel(hertz)), hertz)


@pytest.mark.parametrize(("bands", "rate"), [(64, 8000), (40, 16000), (80, 22050), (64, 44100)])
def test_the_filters_are_triangles_of_area_one(bands: int, rate: int) -> None:
    size = frame_sizes(rate)[2]
    filters = mel_filters(bands, size, rate)
    assert filters.shape == (size // 2 + 1, bands)
    assert (filters.max(0).values > 0).all()  # no band falls between two frequencies
    fine = mel_filters(bands, 2**14, rate)  # its steps are below a tenth of the narrowest half band: areas to 3 %
    torch.testing.assert_close(fine.sum(0) * rate / 2**14, torch.ones(bands, dtype=torch.float64), rtol=0.03, atol=0)
    centres = mel_to_hertz(torch.arange(1, bands + 1) * hertz_to_mel(torch.tensor(rate / 2)) / (bands + 1))
    torch.testing.assert_close(fine.argmax(0).double() * rate / 2**14, centres, rtol=0, atol=rate / 2**14)


def test_the_spectrogram_is_scipy_s() -> None:
    """Power through the filters, float32: 1e-4 of the logarithm."""
    from scipy.signal import ShortTimeFFT, get_window

    rate, samples = 8000, 3210
    length, hop, size = frame_sizes(rate)
    assert (length, hop, size) == (200, 80, 512)
    waves = torch.randn(3, samples) * torch.tensor([0.5, 0.01, 0.0])[:, None]
    filters = mel_filters(20, size, rate)
    found = log_mel(waves, filters.float(), torch.hann_window(length), rate)
    assert found.shape == (3, 20, frames(samples, rate))
    window = np.zeros(size)  # torch centres a short window in the transform
    window[(size - length) // 2 :][:length] = get_window("hann", length)
    transform = ShortTimeFFT(window, hop, rate, fft_mode="onesided", mfft=size)
    padded = np.pad(waves.double().numpy(), ((0, 0), (size // 2, size // 2)))
    starts = range(0, samples + 1, hop)
    power = np.stack([np.abs(np.fft.rfft(padded[:, s : s + size] * window)) ** 2 for s in starts], axis=2)
    expected = np.log(np.einsum("km,bkt->bmt", filters.numpy(), power) + FLOOR)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    scipy = np.abs(transform.stft(waves[0].double().numpy(), p0=0, p1=len(starts))) ** 2
    np.testing.assert_allclose(power[0], scipy, rtol=1e-9, atol=1e-12)


def test_a_tone_lights_its_band() -> None:
    rate = 16000
    time = torch.arange(rate) / rate
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (300.0, 1000.0, 4000.0)])
    length, _, size = frame_sizes(rate)
    found = log_mel(tones, mel_filters(64, size, rate).float(), torch.hann_window(length), rate)
    loudest = found[:, :, 50].argmax(1) + 1
    spacing = hertz_to_mel(torch.tensor(rate / 2)) / 65
    expected = hertz_to_mel(torch.tensor([300.0, 1000.0, 4000.0])) / spacing
    assert ((loudest - expected).abs() < 1).all()

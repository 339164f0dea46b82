"""``data=audio_folder``: recordings to be classified, as log-mel spectrograms computed on the device.

Legend: B batch, N recordings, S samples, M bands, T frames.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.data import Examples, Splits
from dlrun.data.audio_files import (
    FASTEST,
    FULL_SCALE,
    SLOWEST,
    Recordings,
    Sound,
    fitted,
    list_recordings,
    read_wav,
    resampled,
    wav_files,
)
from dlrun.data.facts import Facts
from dlrun.data.mel import frame_sizes, frames, log_mel, mel_filters
from dlrun.data.splitting import split_indices
from dlrun.data.tabular import three_parts
from dlrun.errors import ConfigError, DataError

USUAL = 97  # percentile of the training part's durations that "auto" makes the common length
MOST_BYTES = 4 * 2**30  # of all recordings at the common length
CHUNK = 256  # recordings


class AudioPreprocess:
    """Raw 16-bit sound to standardised log-mel spectrograms.

    Args:
        rate: samples per second.
        samples: S; a file read for prediction is cut or surrounded by silence to it.
        bands: M.
        mean: of each band over the training part's frames, of log power.
        std: of each band, likewise.
    """

    def __init__(self, *, rate: int, samples: int, bands: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.rate, self.samples, self.bands = rate, samples, bands
        self.mean, self.std = list(mean), list(std)
        self._constants: dict[torch.device, tuple[Tensor, ...]] = {}

    @classmethod
    def fit(cls, sounds: Tensor, rate: int, bands: int) -> AudioPreprocess:
        """Measure mean and standard deviation of each band over raw sounds (N, S), in float64."""
        plain = cls(rate=rate, samples=sounds.shape[1], bands=bands, mean=[0.0] * bands, std=[1.0] * bands)
        total, squares = torch.zeros(bands, dtype=torch.float64), torch.zeros(bands, dtype=torch.float64)
        count = 0
        for chunk in sounds.split(CHUNK):
            values = plain(chunk)[:, 0].double()
            total += values.sum((0, 2))
            squares += values.square().sum((0, 2))
            count += values.shape[0] * values.shape[2]
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        std[std < 1e-6] = 1.0
        return cls(rate=rate, samples=sounds.shape[1], bands=bands, mean=mean.tolist(), std=std.tolist())

    def __call__(self, inputs: Tensor) -> Tensor:
        """Sound (B, S) int16 to spectrograms (B, 1, M, T) float32, on the same device."""
        filters, window, mean, std = self._on(inputs.device)
        found = log_mel(inputs.float() / FULL_SCALE, filters, window, self.rate)
        return ((found - mean) / std)[:, None]

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._constants:
            length, _, size = frame_sizes(self.rate)
            made = (
                mel_filters(self.bands, size, self.rate).float(),
                torch.hann_window(length),
                torch.tensor(self.mean)[:, None],
                torch.tensor(self.std)[:, None],
            )
            self._constants[device] = tuple(constant.to(device) for constant in made)
        return self._constants[device]

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read a WAV file, or all those below a folder: raw sound (N, S) int16, and file names.

        Raises:
            DataError: the path is missing, holds no WAV file, or one is damaged.
        """
        files = wav_files(path)[0] if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path} holds no WAV file; give a WAV file or a folder of them")
        sounds = [resampled(sound, rate, self.rate) for rate, sound in map(read_wav, files)]
        names = [str(file.relative_to(path)) for file in files] if path.is_dir() else [path.name]
        return fitted(sounds, self.samples), names

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore`` builds the same object."""
        return {
            "kind": "audio",
            "rate": self.rate,
            "samples": self.samples,
            "bands": self.bands,
            "mean": self.mean,
            "std": self.std,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> AudioPreprocess:
        """The inverse of ``state``."""
        return cls(**{name: value for name, value in state.items() if name != "kind"})


class AudioFolder:
    """A folder of WAV files: class folders, or flat with the label first in each name (``7_theo_12.wav``).

    Args:
        root: the folder; ``path`` is another name for it.
        pattern: regular expression that a file's name, or its path below the root, fits as a whole, with a group
            ``label``.
        test_pattern: regular expression of the files held out for the test.
        rate: samples per second that everything is resampled to; ``auto`` is the most common one.
        seconds: length that everything is cut or filled to; ``auto`` holds 97 of 100 training recordings whole.
        mels: bands of the spectrogram.
        val: share of the training part held out to choose the best checkpoint by.
        test: share of all recordings held out for the test, without ``test_pattern``.
        seed: of the split.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        path: str | None = None,
        pattern: str | None = None,
        test_pattern: str | None = None,
        rate: int | str = "auto",
        seconds: float | str = "auto",
        mels: int = 64,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
    ) -> None:
        if path and root and path != root:
            raise ConfigError(f"data.path={path} and data.root={root} name two folders: leave one of them out")
        if rate != "auto" and not (isinstance(rate, int) and SLOWEST <= rate <= FASTEST):
            raise ConfigError(f"data.rate={rate} must be auto or samples per second, such as 16000")
        if seconds != "auto" and not (isinstance(seconds, int | float) and 0.05 <= seconds <= 3600):
            raise ConfigError(f"data.seconds={seconds} must be auto or a length from 0.05 to 3600, such as 1.0")
        if not 1 <= mels <= 256:
            raise ConfigError(f"data.mels={mels} must be from 1 to 256; use for example 64")
        self.root, self.pattern, self.test_pattern = root or path, pattern, test_pattern
        self.rate, self.seconds, self.mels = rate, seconds, mels
        self.val, self.test, self.seed = val, test, seed

    def facts(self) -> Facts:
        """Read the recordings and tell what was found. Raises DataError naming the file."""
        return self._splits.facts

    def load(self) -> Splits:
        """Read, resample, split and fit; read once, however often it is asked. Raises like ``facts``."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        if self.root is None:
            raise ConfigError("data=audio_folder needs the folder: `dlrun train data=audio_folder data.root=FOLDER`")
        listed = list_recordings(Path(self.root).expanduser(), self.pattern)
        classes = tuple(sorted(set(listed.labels)))
        targets = torch.tensor([classes.index(label) for label in listed.labels])
        rows = self._divide(listed, targets)
        sounds, rate, notes = self._read(listed)
        samples, cut = self._length([len(sounds[row]) for row in rows[0].tolist()], rate)
        if 2 * samples * len(sounds) > MOST_BYTES:
            raise DataError(
                f"{listed.root}: {len(sounds):,} recordings of {samples / rate:.1f} seconds take more than"
                f" {MOST_BYTES // 2**30} GiB; set a smaller data.seconds or data.rate"
            )
        held = fitted(sounds, samples)
        parts = [Examples(held[part], targets[part]) for part in rows]
        facts = Facts(
            name="audio_folder",
            kind="audio",
            input_shape=(1, self.mels, frames(samples, rate)),
            task="classification",
            classes=classes,
            sizes=dict(zip(("train", "val", "test"), map(len, parts), strict=True)),
            notes=(*listed.notes, *notes, *cut),
        )
        total = hashlib.sha256("\n".join(listed.labels).encode(errors="surrogateescape"))
        total.update(held.numpy().tobytes())
        preprocess = AudioPreprocess.fit(parts[0].inputs, rate, self.mels)
        return Splits(facts, parts[0], parts[1], parts[2], preprocess, total.hexdigest())

    def _divide(self, listed: Recordings, targets: Tensor) -> tuple[Tensor, ...]:
        """Rows of the training, validation and test part."""
        if self.test_pattern is None:
            return three_parts(len(targets), self.val, self.test, self.seed, targets)
        tested = torch.tensor(listed.matching(self.test_pattern))
        if not 0 < int(tested.sum()) < len(tested):
            count = "no" if not tested.any() else "every"
            raise DataError(
                f"{listed.root}: {count} recording fits data.test_pattern={self.test_pattern} (the first is"
                f" {listed.files[0].name})"
            )
        rest = (~tested).nonzero().flatten()
        kept, val = split_indices(len(rest), self.val, self.seed, targets[rest])
        return rest[kept], rest[val], tested.nonzero().flatten()

    def _read(self, listed: Recordings) -> tuple[list[Sound], int, tuple[str, ...]]:
        """All sounds at one rate, the rate, and a note where some were resampled."""
        found = [read_wav(file) for file in listed.files]
        rates = Counter(rate for rate, _ in found)
        rate = rates.most_common(1)[0][0] if self.rate == "auto" else int(self.rate)
        sounds = [resampled(sound, own, rate) for own, sound in found]
        others = len(sounds) - rates[rate]
        return sounds, rate, (f"{others:,} recordings are resampled to {rate:,} per second",) if others else ()

    def _length(self, lengths: Sequence[int], rate: int) -> tuple[int, tuple[str, ...]]:
        """Samples of every recording, and a note where some are cut."""
        if self.seconds == "auto":
            samples = round(float(np.percentile(lengths, USUAL, method="lower")))
        else:
            samples = round(float(self.seconds) * rate)
        samples = max(samples, frame_sizes(rate)[2])  # at least one transform
        longer = sum(length > samples for length in lengths)
        note = f"{longer:,} training recordings are longer than {samples / rate:.2f} seconds and are cut at both ends"
        return samples, (note,) if longer else ()

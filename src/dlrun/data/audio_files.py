"""WAV files: finding them with their labels, and reading any of them as 16-bit mono of one rate and length.

Legend: N files, S samples.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlrun.errors import ConfigError, DataError, nearest

Sound = npt.NDArray[np.float32]
SUFFIXES = (".wav", ".wave")
MOST_BYTES = 512 * 2**20  # of one file
SLOWEST, FASTEST = 1000, 400_000  # samples per second
FULL_SCALE = 32768.0
PARTS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
LAYOUT = "ROOT/CLASS/*.wav, or ROOT/CLASS_anything.wav, or names that 'data.pattern=\"(?P<label>[^_]+)_.*\"' describes"


@dataclass(frozen=True)
class Recordings:
    """The files of a data set.

    Attributes:
        root: the folder their names count from.
        files: sorted.
        labels: the label of each.
        notes: one sentence for each thing that was decided.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    def matching(self, pattern: str) -> list[bool]:
        """For each file whether its name, or its path below the root, fits a regular expression as a whole."""
        found = compiled(pattern, "test_pattern")
        return [_match(found, file, self.root) is not None for file in self.files]


def list_recordings(root: Path, pattern: str | None) -> Recordings:
    """Find all WAV files below a folder and the label of each.

    Raises:
        DataError: the folder is missing, holds no WAV file, or its labels make no classes.
        ConfigError: ``pattern`` is no regular expression with a group ``label``.
    """
    if not root.is_dir():
        close = nearest(root.name, [entry.name for entry in root.parent.iterdir()]) if root.parent.is_dir() else None
        hint = f"did you mean data.root={root.parent / close}?" if close else f"expected {LAYOUT}"
        raise DataError(f"{root} is {'no folder' if root.exists() else 'missing'}; {hint}")
    files, others = wav_files(root)
    if not files:
        raise DataError(f"{root} holds no WAV file; expected {LAYOUT}")
    inside = {file.relative_to(root).parts[0] for file in files if file.parent != root}
    if pattern is None and len(inside) == 1 and not any(file.parent == root for file in files):
        return list_recordings(root / inside.pop(), None)
    notes = [f"{others:,} files that are no WAV files were passed over"] if others else []
    if pattern is not None:
        labels, source = _by_pattern(files, root, pattern), "data.pattern"
        notes += [f"{count:,} WAV files do not fit data.pattern" for count in [labels.count(None)] if count]
    elif len(inside) > 1:
        if inside <= PARTS:
            raise DataError(
                f"{root} has the folders {', '.join(sorted(inside))}, which are parts and not classes; add"
                " 'data.pattern=\"[^/]+/(?P<label>[^/]+)/.*\"' and 'data.test_pattern=\"test/.*\"'"
            )
        labels, source = [_folder(file, root) for file in files], "the folder's name"
        notes += [f"{count:,} WAV files lie in no class folder" for count in [labels.count(None)] if count]
    else:
        labels, source = [re.split(r"[_\-. ]", file.stem)[0] for file in files], "the first part of the file's name"
    kept = [(file, label) for file, label in zip(files, labels, strict=True) if label is not None]
    if not kept:
        raise DataError(f"{root}: no WAV file fits data.pattern={pattern}; the first is {files[0].relative_to(root)}")
    _check_classes(root, [label for _, label in kept], source)
    notes.append(f"the label is {source}")
    return Recordings(root, tuple(f for f, _ in kept), tuple(label for _, label in kept), tuple(notes))


def _check_classes(root: Path, labels: Sequence[str], source: str) -> None:
    kinds = len(set(labels))
    if not 2 <= kinds <= len(labels) / 2:
        raise DataError(
            f"{root}: {len(labels)} WAV files with {kinds} different labels (by {source}) make no classes;"
            f" expected {LAYOUT}"
        )


def wav_files(folder: Path) -> tuple[list[Path], int]:
    """All visible WAV files below a folder, sorted, and how many other files there are."""
    try:
        every = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path, folder)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error
    found = [path for path in every if path.suffix.lower() in SUFFIXES]
    return found, len(every) - len(found)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _folder(file: Path, root: Path) -> str | None:
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _by_pattern(files: Sequence[Path], root: Path, pattern: str) -> list[str | None]:
    found = compiled(pattern, "pattern")
    if "label" not in found.groupindex:
        raise ConfigError(f"data.pattern={pattern} has no group 'label', such as (?P<label>[^_]+)_.*")
    matches = [_match(found, file, root) for file in files]
    return [None if match is None else match["label"] for match in matches]


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """A regular expression. Raises ConfigError naming ``data.key`` when it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.{key}={pattern} is no regular expression: {error}") from error


def _match(pattern: re.Pattern[str], file: Path, root: Path) -> re.Match[str] | None:
    return pattern.fullmatch(file.name) or pattern.fullmatch(file.relative_to(root).as_posix())


def read_wav(path: Path) -> tuple[int, Sound]:
    """Rate and sound (S,), all channels mixed, full scale 1.

    Raises:
        DataError: the file is missing, damaged, empty, of more than 512 MiB, or holds NaN.
    """
    from scipy.io import wavfile

    try:
        if not path.is_file():
            raise DataError(f"{path} is {'no file' if path.exists() else 'missing'}; give a WAV file")
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than {MOST_BYTES // 2**20} MiB; cut it into shorter recordings")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # chunks that scipy does not know, such as a title
            warnings.filterwarnings("error", "Reached EOF prematurely")
            rate, values = wavfile.read(path)
    except DataError:
        raise
    except Exception as error:  # a damaged header shows as whatever it makes scipy stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a WAV file: {reason}") from error
    if not values.size:
        raise DataError(f"{path} has no samples in it; remove it")
    if not SLOWEST <= rate <= FASTEST:
        raise DataError(f"{path} has a rate of {rate} samples per second, which no recording has; it is damaged")
    if values.dtype.kind == "f":
        sound = values.astype(np.float32)
        if not np.isfinite(sound).all():
            raise DataError(f"{path} holds samples that are NaN or infinite; remove it")
    else:
        info = np.iinfo(
            values.dtype
        )  # 8-bit samples are unsigned, silence being 128; 24-bit ones come as the top of 32
        middle = 0 if info.min else 128
        sound = ((values.astype(np.float64) - middle) / (info.max - middle + 1)).astype(np.float32)
    return int(rate), sound if sound.ndim == 1 else sound.mean(axis=1)


def resampled(sound: Sound, rate: int, wanted: int) -> Sound:
    """Sound (S,) at another rate, by a polyphase filter."""
    if rate == wanted:
        return sound
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    changed: Sound = resample_poly(sound, wanted // common, rate // common).astype(np.float32)
    return changed


def fitted(sounds: Sequence[Sound], samples: int) -> Tensor:
    """Sounds cut at both ends, or surrounded by silence, to int16 (N, samples)."""
    held = np.zeros((len(sounds), samples), np.int16)
    for row, sound in zip(held, sounds, strict=True):
        spare = samples - len(sound)
        part = sound[max(0, -spare // 2) :][:samples]
        start = max(0, spare) // 2
        row[start : start + len(part)] = np.clip(np.rint(part * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return torch.from_numpy(held)

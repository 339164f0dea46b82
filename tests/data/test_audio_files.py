"""Any WAV file becomes 16-bit mono of one rate and length; a broken one becomes a sentence."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from dlrun.data.audio_files import FULL_SCALE, fitted, list_recordings, read_wav, resampled
from dlrun.errors import ConfigError, DataError

RATE = 8000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(1600) / RATE)


def save(path: Path, values: np.ndarray | None = None, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.zeros(400, np.int16) if values is None else values)
    return path


def folder(path: Path, *names: str) -> Path:
    for name in names:
        save(path / name)
    return path


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ((TONE * 127 + 128).astype(np.uint8), 1 / 127),
        ((TONE * 2**15).astype(np.int16), 2.0**-15),
        ((TONE * 2**31).astype(np.int32), 1e-6),
        (TONE.astype(np.float32), 1e-6),
        (TONE, 1e-6),
    ],
)
def test_every_sample_format_has_one_full_scale(tmp_path: Path, values: np.ndarray, step: float) -> None:
    rate, sound = read_wav(save(tmp_path / "a.wav", values))
    assert rate == RATE
    assert sound.dtype == np.float32
    np.testing.assert_allclose(sound, TONE, atol=1.5 * step)


def test_24_bit_files(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(RATE)
        file.writeframes(b"".join(int(v * 2**23).to_bytes(3, "little", signed=True) for v in TONE))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[1], TONE, atol=1e-6)


def test_channels_are_mixed(tmp_path: Path) -> None:
    both = np.stack([np.full(400, 1000, np.int16), np.full(400, 3000, np.int16)], axis=1)
    np.testing.assert_array_equal(read_wav(save(tmp_path / "a.wav", both))[1], np.full(400, 2000 / FULL_SCALE))


@pytest.mark.parametrize("wanted", [4000, 16000, 11025])
def test_another_rate_is_the_same_tone(wanted: int) -> None:
    """Away from the ends, where the filter reaches beyond the recording: 1 % of full scale."""
    found = resampled(TONE.astype(np.float32), RATE, wanted)
    time = np.arange(len(found)) / wanted
    assert abs(len(found) - len(TONE) * wanted / RATE) <= 1
    inner = (time > 0.02) & (time < 0.18)
    np.testing.assert_allclose(found[inner], 0.5 * np.sin(2 * np.pi * 440 * time[inner]), atol=0.01)


def test_cut_and_filled_at_both_ends() -> None:
    short, long = np.full(3, 0.5, np.float32), np.arange(10, dtype=np.float32) / FULL_SCALE
    held = fitted([short, long, np.full(6, 2.0, np.float32)], 6)
    assert held.tolist() == [[0, 16384, 16384, 16384, 0, 0], [2, 3, 4, 5, 6, 7], [32767] * 6]


def test_sixteen_bits_come_back_as_they_were(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, 500).astype(np.int16)
    np.testing.assert_array_equal(fitted([read_wav(save(tmp_path / "a.wav", values))[1]], 500)[0].numpy(), values)


def test_class_folders(tmp_path: Path) -> None:
    found = list_recordings(folder(tmp_path, "dog/1.wav", "dog/x/2.WAV", "cat/1.wav", "cat/2.wave", "stray.wav"), None)
    assert [(file.name, label) for file, label in zip(found.files, found.labels, strict=True)] == [
        ("1.wav", "cat"), ("2.wave", "cat"), ("1.wav", "dog"), ("2.WAV", "dog"),
    ]  # fmt: skip
    assert found.notes == ("1 WAV files lie in no class folder", "the label is the folder's name")


def test_flat_files_have_the_label_first_and_a_lone_folder_is_entered(tmp_path: Path) -> None:
    folder(tmp_path / "recordings", "7_theo_12.wav", "7_theo_1.wav", "3-a.wav", "3-b.wav")
    (tmp_path / "README").touch()
    (tmp_path / "recordings" / "notes.txt").touch()
    (tmp_path / "recordings" / "._7_theo_1.wav").touch()
    found = list_recordings(tmp_path, None)
    assert found.root == tmp_path / "recordings"
    assert found.labels == ("3", "3", "7", "7")
    assert found.notes == (
        "1 files that are no WAV files were passed over",
        "the label is the first part of the file's name",
    )
    assert found.matching(r".*_[0-4]\.wav") == [False, False, True, False]


def test_a_pattern_names_the_label(tmp_path: Path) -> None:
    folder(tmp_path, "test/cat/1.wav", "train/cat/2.wav", "train/dog/3.wav", "train/dog/4.wav", "noise.wav")
    found = list_recordings(tmp_path, "[^/]+/(?P<label>[^/]+)/.*")
    assert found.labels == ("cat", "cat", "dog", "dog")
    assert found.notes[0] == "1 WAV files do not fit data.pattern"
    assert found.matching("test/.*") == [True, False, False, False]
    by_name = list_recordings(
        folder(tmp_path / "b", "x_cat.wav", "y_cat.wav", "x_dog.wav", "y_dog.wav"), ".*_(?P<label>.*).wav"
    )
    assert by_name.labels == ("cat", "dog", "cat", "dog")


@pytest.mark.parametrize(
    ("names", "pattern", "error", "words"),
    [
        ([], None, DataError, "holds no WAV file"),
        (["a_1.wav", "a_2.wav"], None, DataError, "1 different labels"),
        (["a.wav", "b.wav", "c.wav"], None, DataError, "3 different labels .by the first part of the file's name."),
        (["train/a/1.wav", "test/a/1.wav"], None, DataError, "folders test, train, which are parts and not classes"),
        (["a_1.wav", "b_2.wav"], "(.*)_.*", ConfigError, "no group 'label'"),
        (["a_1.wav", "b_2.wav"], "(?P<label>.*", ConfigError, "is no regular expression"),
        (["a_1.wav", "b_2.wav"], "(?P<label>.*)[.]mp3", DataError, "no WAV file fits data.pattern=.*a_1.wav"),
    ],
)
def test_files_that_make_no_classes(
    tmp_path: Path, names: list[str], pattern: str | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        list_recordings(folder(tmp_path / "data", *names) if names else tmp_path, pattern)


def test_a_missing_folder_has_a_nearest_name(tmp_path: Path) -> None:
    folder(tmp_path / "recordings", "a_1.wav")
    with pytest.raises(DataError, match=r"missing; did you mean data.root=.*/recordings\?"):
        list_recordings(tmp_path / "recording", None)
    with pytest.raises(DataError, match="is no folder"):
        list_recordings(tmp_path / "recordings" / "a_1.wav", None)


def _header(**changed: int) -> bytes:
    """A WAV file of ten 16-bit zeros with some header fields replaced."""
    fields = {"size": 56, "form": 1, "channels": 1, "rate": RATE, "bits": 16, "data": 20} | changed
    data = fields["rate"] * fields["channels"] * fields["bits"] // 8
    parts = [b"RIFF", fields["size"].to_bytes(4, "little"), b"WAVEfmt ", (16).to_bytes(4, "little")]
    parts += [fields["form"].to_bytes(2, "little"), fields["channels"].to_bytes(2, "little")]
    parts += [fields["rate"].to_bytes(4, "little"), (data % 2**32).to_bytes(4, "little")]
    parts += [(fields["channels"] * fields["bits"] // 8 % 2**16).to_bytes(2, "little")]
    parts += [fields["bits"].to_bytes(2, "little"), b"data", fields["data"].to_bytes(4, "little"), bytes(20)]
    return b"".join(parts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as a WAV file"),
        (b"RIFF", "cannot be read as a WAV file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read as a WAV file"),
        (os.urandom(500), "cannot be read as a WAV file"),
        (_header()[:30], "cannot be read as a WAV file"),
        (_header(bits=7), "cannot be read as a WAV file"),
        (_header(form=85), "cannot be read as a WAV file"),
        (_header(channels=0), "cannot be read as a WAV file"),
        (_header(data=0)[:44], "no samples in it|cannot be read"),
        (_header(rate=3), "a rate of 3 samples"),
        (_header(rate=2**31), "a rate of 2147483648|cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"broken\.wav.*({words})"):
        read_wav(path)


def test_a_good_header_is_good(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(_header())
    assert read_wav(tmp_path / "a.wav")[1].tolist() == [0.0] * 10


def test_samples_that_are_no_numbers_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN"):
        read_wav(save(tmp_path / "nan.wav", np.array([0, np.nan] * 50, np.float32)))
    os.mkfifo(tmp_path / "pipe.wav")
    for name, words in (("gone.wav", "missing"), ("pipe.wav", "no file"), (".", "no file")):
        with pytest.raises(DataError, match=words):
            read_wav(tmp_path / name)


def test_a_recording_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    wavfile.write(path, 8000, np.arange(4000, dtype=np.int16))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut\.wav"):
        read_wav(path)

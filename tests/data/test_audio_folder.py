"""A folder of recordings becomes spectrograms on a common scale, and its files can be predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from dlrun.data import restore_preprocess
from dlrun.data.audio_folder import AudioFolder
from dlrun.data.batches import Batches
from dlrun.errors import ConfigError, DataError


def tone(path: Path, hertz: float, seconds: float = 0.3, rate: int = 8000) -> None:
    time = np.arange(round(seconds * rate)) / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, (9000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16))


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    for take in range(10):
        tone(tmp_path / f"low_{take}.wav", 200 + take)
        tone(tmp_path / f"high_{take}.wav", 2000 + take)
    return tmp_path


def load(root: Path, **settings: Any) -> Any:
    return AudioFolder(root=str(root), **settings).load()


def test_a_folder_of_recordings(tones: Path) -> None:
    splits = load(tones)
    facts = splits.facts
    assert (facts.kind, facts.task, facts.classes) == ("audio", "classification", ("high", "low"))
    assert facts.input_shape == (1, 64, 31)
    assert facts.sizes == {"train": 14, "val": 2, "test": 4}
    assert splits.train.inputs.dtype == torch.int16
    assert splits.train.inputs.shape == (14, 2400)
    assert torch.bincount(splits.test.targets).tolist() == [2, 2]
    assert AudioFolder(root=str(tones)).facts() == facts
    assert AudioFolder(path=str(tones)).facts() == facts


def test_each_band_of_the_training_part_has_mean_0_and_deviation_1(tones: Path) -> None:
    splits = load(tones, mels=20)
    ready = splits.preprocess(splits.train.inputs)
    assert ready.shape == (14, 1, 20, 31)
    assert ready.dtype == torch.float32
    torch.testing.assert_close(ready.mean((0, 1, 3)), torch.zeros(20), rtol=0, atol=1e-4)
    torch.testing.assert_close(ready.std((0, 1, 3), correction=0), torch.ones(20), rtol=1e-3, atol=0)
    rising, low = splits.train.targets == 0, ready[:, 0, :, 10]
    assert (low[rising].argmax(1) > low[~rising].argmax(1)).all()


def test_batches_hold_spectrograms(tones: Path) -> None:
    splits = load(tones)
    batches = Batches(splits.train, preprocess=splits.preprocess, batch_size=5, device=torch.device("cpu"), seed=0)
    inputs = torch.cat([x for x, _ in batches.in_order()])
    torch.testing.assert_close(inputs, splits.preprocess(splits.train.inputs))


def test_held_out_by_name(tones: Path) -> None:
    splits = load(tones, test_pattern=r".*_[0-2]\.wav", val=0)
    assert splits.facts.sizes == {"train": 14, "val": 0, "test": 6}
    for pattern, word in ((".*", "every"), ("none", "no")):
        with pytest.raises(DataError, match=f"{word} recording fits data.test_pattern"):
            load(tones, test_pattern=pattern)


def test_rates_and_lengths_are_brought_together(tones: Path) -> None:
    tone(tones / "low_x.wav", 200, seconds=0.2, rate=16000)
    tone(tones / "low_y.wav", 200, seconds=3.0)
    splits = load(tones, val=0, test=0)
    assert splits.facts.input_shape == (1, 64, 31)
    assert "1 recordings are resampled to 8,000 per second" in splits.facts.notes
    assert "1 training recordings are longer than 0.30 seconds and are cut at both ends" in splits.facts.notes
    other = load(tones, rate=4000, seconds=0.5)
    assert other.train.inputs.shape[1] == 2000
    assert other.preprocess.rate == 4000


def test_a_very_short_recording_fills_one_transform(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "b_1", "b_2"):
        tone(tmp_path / f"{name}.wav", 500, seconds=0.01)
    splits = load(tmp_path, val=0, test=0)
    assert splits.train.inputs.shape == (4, 512)
    assert splits.preprocess(splits.train.inputs).isfinite().all()


def test_a_file_is_read_for_prediction_by_the_stored_state(tones: Path, tmp_path: Path) -> None:
    splits = load(tones, val=0, test=0)
    restored = restore_preprocess(json.loads(json.dumps(splits.preprocess.state())))
    raw, names = restored.read(tones / "high_3.wav")
    assert names == ["high_3.wav"]
    torch.testing.assert_close(restored(raw), splits.preprocess(splits.train.inputs[3:4]))
    raw, names = restored.read(tones)
    assert len(raw) == len(names) == 20
    tone(tmp_path / "new" / "a.wav", 300, seconds=1.0, rate=44100)
    assert restored.read(tmp_path / "new" / "a.wav")[0].shape == (1, 2400)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no WAV file"):
        restored.read(tmp_path / "empty")


def test_the_fingerprint_sees_a_change(tones: Path) -> None:
    before = load(tones).fingerprint
    assert load(tones).fingerprint == before
    tone(tones / "low_3.wav", 444)
    assert load(tones).fingerprint != before


def test_a_broken_file_is_named(tones: Path) -> None:
    (tones / "low_99.wav").write_bytes(b"RIFFxxxx")
    with pytest.raises(DataError, match=r"low_99\.wav cannot be read"):
        load(tones)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": 10}, "data.rate=10"),
        ({"rate": "fast"}, "data.rate=fast"),
        ({"seconds": 0}, "data.seconds=0"),
        ({"seconds": "long"}, "data.seconds=long"),
        ({"mels": 0}, "data.mels=0"),
        ({"path": "elsewhere"}, "name two folders"),
    ],
)
def test_wrong_keys_are_refused(tones: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tones, **settings)


def test_a_folder_has_to_be_given() -> None:
    with pytest.raises(ConfigError, match=r"data\.root=FOLDER"):
        AudioFolder().facts()


def test_too_much_for_the_memory_is_refused(tones: Path) -> None:
    with pytest.raises(DataError, match=r"20 recordings of 3600.0 seconds take more than 4 GiB"):
        load(tones, seconds=3600, rate=48000)


def test_the_spoken_digits(shared_data: Path) -> None:
    """The listing alone: reading all 2,000 takes longer than a test may."""
    from dlrun.data.audio_files import list_recordings

    found = list_recordings(shared_data / "fsdd", None)
    assert (len(found.files), sorted(set(found.labels))) == (2000, list("0123456789"))
    assert sum(found.matching(r".*_[0-4]\.wav")) == 200

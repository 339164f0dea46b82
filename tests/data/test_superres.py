"""Folders of pictures for super-resolution: patches, whole pictures, luma and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.data import Examples, restore_preprocess
from dlrun.data.superres import Pictures, SuperResolutionFolder, SuperresPreprocess, cut, low_and_high, luma
from dlrun.errors import ConfigError, DataError
from dlrun.models.bicubic import resize


def picture(path: Path, width: int = 40, height: int = 31, mode: str = "RGB", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(5):
        picture(tmp_path / "train" / f"{i}.png", seed=i)
    picture(tmp_path / "test" / "t.png", 50, 44, seed=9)
    return tmp_path


def data(folder: Path, **settings: Any) -> SuperResolutionFolder:
    usual: dict[str, Any] = {"path": str(folder / "train"), "test_path": str(folder / "test"), "scale": 2, "patch": 6}
    return SuperResolutionFolder(**usual | {"stride": 3, "val": 0.2} | settings)


def test_patches_to_train_on_and_whole_pictures_to_measure(folder: Path) -> None:
    source = data(folder)
    splits = source.load()
    facts = source.facts()
    assert facts == splits.facts
    assert (facts.input_shape, facts.target_shape, facts.scale) == ((1, 6, 6), (1, 12, 12), 2)
    # 31 x 40 at half the size is 15 x 20: four places from top to bottom, five from left to right
    assert facts.sizes == {"train": 4 * 5 * 4, "val": 1, "test": 1}
    assert isinstance(splits.train, Examples)
    assert splits.train.inputs.shape == (80, 1, 6, 6)
    assert splits.train.targets.shape == (80, 1, 12, 12)
    assert isinstance(splits.test, Pictures)
    assert splits.test.singly
    low, high = splits.test[0]
    assert (low.shape, high.shape) == ((1, 22, 25), (1, 44, 50))
    torch.testing.assert_close(low / 255, resize(high.unsqueeze(0), 22, 25)[0], rtol=0, atol=1e-6)


def test_a_patch_lies_where_its_target_lies(tmp_path: Path) -> None:
    low, high = low_and_high(picture(tmp_path / "a.png", 60, 60), 3)
    small, large = cut(low, 8, 4), cut(high, 24, 12)
    assert len(small) == len(large) == 16
    assert torch.equal(small[5], low[0, :, 4:12, 4:12])
    assert torch.equal(large[5], high[0, :, 12:36, 12:36])


def test_luma_is_matlab_s() -> None:
    """rgb2ycbcr: black 16, white 235, and the primaries as BT.601 prints them."""
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]).view(5, 3, 1, 1)
    assert luma(colours).round().flatten().tolist() == [16, 235, 81, 145, 41]
    grey = torch.tensor([0.0, 128, 255]).view(3, 1, 1, 1)
    assert torch.equal(luma(grey), grey)


def test_the_network_sees_the_same_luma_in_training_and_in_prediction(folder: Path) -> None:
    preprocess = SuperresPreprocess(2)
    raw, names = preprocess.read(folder / "test" / "t.png")
    assert (raw.shape, names) == ((1, 3, 44, 50), ["t.png"])
    _, high = low_and_high(folder / "test" / "t.png", 2)
    assert torch.equal(preprocess(raw), high)


def test_colours_come_back_with_the_network_s_luma() -> None:
    preprocess = SuperresPreprocess(3)
    raw = torch.randint(40, 200, (1, 3, 10, 12), dtype=torch.uint8)
    plain = torch.nn.functional.interpolate(raw.float(), (30, 36), mode="bicubic", antialias=True)
    torch.testing.assert_close(
        preprocess.recolour(raw, luma(plain) / 255), (plain / 255).clamp(0, 1), atol=1e-5, rtol=0
    )
    wanted = luma(plain) / 255 + 0.02
    torch.testing.assert_close(luma(255 * preprocess.recolour(raw, wanted)) / 255, wanted, atol=2e-5, rtol=0)
    grey = torch.rand(1, 1, 30, 36) + 0.5
    assert torch.equal(preprocess.recolour(raw[:, :1], grey), grey.clamp(0, 1))


def test_a_grey_picture_stays_grey(tmp_path: Path) -> None:
    raw, _ = SuperresPreprocess(2).read(picture(tmp_path / "g.png", mode="L"))
    assert raw.shape == (1, 1, 31, 40)
    assert torch.equal(SuperresPreprocess(2)(raw), raw.float() / 255)


def test_preprocessing_comes_back_from_a_checkpoint() -> None:
    restored = restore_preprocess(SuperresPreprocess(4).state())
    assert isinstance(restored, SuperresPreprocess)
    assert restored.scale == 4


def test_test_pictures_are_never_trained_on(folder: Path) -> None:
    source = data(folder, path=str(folder))
    assert source.facts().sizes["train"] == 80
    assert any("1 test pictures lie in data.path" in note for note in source.facts().notes)


def test_without_test_pictures_there_is_no_test_part(folder: Path) -> None:
    splits = data(folder, test_path=None).load()
    assert splits.facts.sizes["test"] == len(splits.test) == 0  # type: ignore[arg-type]


def test_small_pictures_are_passed_over_and_counted(folder: Path) -> None:
    picture(folder / "train" / "tiny.png", 10, 10)
    assert "1 pictures with a side below 15 pixels were passed over." in data(folder).facts().notes


def test_more_patches_than_memory_are_chosen_at_random_and_repeatably(folder: Path) -> None:
    share = 30 * 4 * 36 * 5 / 2**30  # thirty patches of 6 x 6 and 12 x 12 floats
    some = data(folder, memory=share * 1.001)
    assert some.facts().sizes["train"] == 30
    assert any("30 of 80 patches" in note for note in some.facts().notes)
    first, again, every = some.load().train, data(folder, memory=share * 1.001).load().train, data(folder).load().train
    assert isinstance(first, Examples)
    assert isinstance(again, Examples)
    assert isinstance(every, Examples)
    assert torch.equal(first.inputs, again.inputs)
    known = {tuple(patch.flatten().tolist()): i for i, patch in enumerate(every.inputs)}
    places = [known[tuple(patch.flatten().tolist())] for patch in first.inputs]
    assert len(set(places)) == 30
    assert torch.equal(first.targets, every.targets[places])


def test_the_fingerprint_is_the_content_s(folder: Path) -> None:
    before = data(folder).load().fingerprint
    assert data(folder).load().fingerprint == before
    picture(folder / "test" / "t.png", 50, 44, seed=10)
    assert data(folder).load().fingerprint != before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scale": 1}, r"data\.scale=1 cannot be used"),
        ({"patch": 2}, r"data\.patch=2 cannot be used"),
        ({"stride": 0}, r"data\.stride=0 cannot be used"),
        ({"memory": 0}, r"data\.memory=0 must be above 0"),
    ],
)
def test_settings_that_cannot_be(folder: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        data(folder, **settings)


def test_what_is_no_folder_of_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=FOLDER"):
        SuperResolutionFolder().facts()
    with pytest.raises(DataError, match=r"nowhere is missing"):
        data(folder, path=str(tmp_path / "nowhere")).facts()
    with pytest.raises(DataError, match=r"t\.png is no folder"):
        data(folder, test_path=str(folder / "test" / "t.png")).facts()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no picture"):
        data(folder, path=str(tmp_path / "empty")).facts()
    with pytest.raises(DataError, match="no picture of at least 80 x 80"):
        data(folder, patch=40).facts()
    (folder / "train" / "bad.png").write_bytes(b"\x00" * 100)
    with pytest.raises(DataError, match=r"bad\.png is no image"):
        data(folder).facts()


def test_a_result_that_no_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlrun.data.superres.LARGEST", 0.001)
    with pytest.raises(DataError, match=r"3 times larger is over 0\.001 megapixels"):
        SuperresPreprocess(3).read(picture(tmp_path / "large.png"))

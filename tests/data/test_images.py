import json
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.data import images
from dlrun.data.images import ImagePreprocess, image_files, peek, read_image
from dlrun.errors import DataError

RAW = torch.randint(0, 256, (50, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def grey_ramp():
    return Image.fromarray(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6))


def test_fitted_statistics_are_those_of_float64(monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 7)
    fitted = ImagePreprocess.fit(RAW)
    values = RAW.double() / 255
    torch.testing.assert_close(torch.tensor(fitted.mean).double(), values.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.tensor(fitted.std).double(), values.std((0, 2, 3), correction=0), rtol=1e-6, atol=1e-6
    )
    assert fitted.size == (6, 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_preprocessing_standardises_without_changing_its_input(dtype):
    raw = RAW.to(dtype)
    out = ImagePreprocess.fit(raw)(raw)
    assert torch.equal(raw, RAW.to(dtype))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_a_constant_channel_is_only_centred():
    out = ImagePreprocess.fit(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8))
    assert out.std == [1.0]
    assert out(torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)).abs().max() < 1e-6


def test_the_state_survives_json_and_gives_the_same_bits():
    fitted = ImagePreprocess.fit(RAW)
    restored = ImagePreprocess.restore(json.loads(json.dumps(fitted.state())))
    assert torch.equal(fitted(RAW), restored(RAW))
    assert restored.state() == fitted.state()
    assert fitted.state()["kind"] == "image"


def forms(folder):
    """One picture in every mode and several formats, each file name with the values it should decode to."""
    ramp = grey_ramp()
    values = np.array(ramp)
    alpha = Image.fromarray(np.full((4, 6), 255, np.uint8))
    colours = ramp.convert("RGB")
    made = {
        "l.png": ramp,
        "la.png": Image.merge("LA", (ramp, alpha)),
        "rgb.png": colours,
        "rgba.png": Image.merge("RGBA", (*colours.split(), alpha)),
        "p.png": ramp.convert("P"),
        "cmyk.tif": colours.convert("CMYK"),
        "i16.png": Image.fromarray(values.astype(np.uint16) * 257),
        "i32.tif": Image.fromarray(values.astype(np.int32)),
        "i32deep.tif": Image.fromarray(values.astype(np.int32) * 257),
        "f.tif": Image.fromarray(values.astype(np.float32) / 255),
        "pgm.pgm": ramp,
        "webp.webp": colours,
        "gif.gif": ramp,
        "bmp.bmp": colours,
    }
    for name, image in made.items():
        image.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    return made, values


def test_every_mode_decodes_to_the_same_picture(tmp_path):
    made, values = forms(tmp_path)
    expected = torch.from_numpy(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in made:
            for channels in (1, 3):
                out = read_image(tmp_path / name, channels, (4, 6))
                assert out.shape == (channels, 4, 6)
                assert (out.int() - expected.int()).abs().max() <= 1, name


def test_one_bit_images_are_black_and_white(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "bit.png")
    assert torch.equal(read_image(tmp_path / "bit.png", 1, (4, 4))[0], torch.eye(4, dtype=torch.uint8) * 255)


def test_transparent_pixels_lie_on_white(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "clear.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("clear.png", "palette.png"):
        assert (read_image(tmp_path / name, 3, (4, 4)) == 255).all()


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    grey_ramp().save(tmp_path / "turned.png", exif=exif)
    upright = torch.from_numpy(np.rot90(np.array(grey_ramp()), -1).copy())
    assert peek(tmp_path / "turned.png") == ((6, 4), True)
    assert torch.equal(read_image(tmp_path / "turned.png", 1, (6, 4))[0], upright)


def test_any_size_is_resized(tmp_path):
    Image.new("RGB", (3000, 40), (200, 100, 50)).save(tmp_path / "long.jpg")
    out = read_image(tmp_path / "long.jpg", 3, (8, 12))
    assert out.shape == (3, 8, 12)
    assert (out.flatten(1).float().mean(1) - torch.tensor([200.0, 100, 50])).abs().max() < 3


def test_reading_a_file_and_a_folder_for_prediction(tmp_path):
    (tmp_path / "b").mkdir()
    grey_ramp().save(tmp_path / "b" / "two.png")
    grey_ramp().save(tmp_path / "one.png")
    (tmp_path / "notes.txt").write_text("x")
    preprocess = ImagePreprocess(mean=[0.5], std=[0.5], channels=1, size=(4, 6))
    raw, names = preprocess.read(tmp_path)
    assert names == ["b/two.png", "one.png"]
    assert raw.dtype == torch.uint8
    assert raw.shape == (2, 1, 4, 6)
    assert preprocess.read(tmp_path / "one.png")[1] == ["one.png"]


def test_a_file_is_brought_to_the_range_of_the_training_data(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    digits = ImagePreprocess(mean=[0.0], std=[1.0], channels=1, size=(8, 8), scale=16.0)
    raw, _ = digits.read(tmp_path / "white.png")
    torch.testing.assert_close(raw, torch.full((1, 1, 8, 8), 16.0))
    torch.testing.assert_close(digits(raw), torch.ones(1, 1, 8, 8))


def broken(kind, folder):
    path = folder / "photo.png"
    if kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to(folder / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        Image.new("1", (8000, 7000)).save(path)
    elif kind == "bomb":
        Image.new("1", (20000, 10000)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "photo.png is damaged"),
        ("text", "photo.png is no image"),
        ("empty", "photo.png is no image"),
        ("pipe", "photo.png is no regular file"),
        ("dangling", "photo.png is missing"),
        ("loop", "photo.png is missing"),
        ("folder", "photo.png is no regular file"),
        ("absent", "photo.png is missing"),
        ("huge", "8000 x 7000, more than 50 megapixels"),
        ("bomb", "more than 50 megapixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_is_named_in_one_sentence(kind, words, tmp_path):
    path = broken(kind, tmp_path)
    with pytest.raises(DataError) as caught:
        read_image(path, 1, (8, 8))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_for_prediction_is_refused(tmp_path):
    preprocess = ImagePreprocess(mean=[0.5], std=[0.5], channels=1, size=(4, 6))
    with pytest.raises(DataError, match="holds no image file"):
        preprocess.read(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        preprocess.read(tmp_path / "nothing")


def test_listing_passes_over_what_is_no_image(tmp_path):
    grey_ramp().save(tmp_path / "b.PNG")
    (tmp_path / "deep").mkdir()
    grey_ramp().save(tmp_path / "deep" / "a.png")
    grey_ramp().save(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    os.mkfifo(tmp_path / "pipe.png")
    files, ignored = image_files(tmp_path)
    assert files == [tmp_path / "b.PNG", tmp_path / "deep" / "a.png"]
    assert ignored == 6


@pytest.mark.parametrize("shape", [(50, 1, 4, 4), (9000, 3, 2, 2)], ids=["grey", "colours in several chunks"])
def test_bytes_are_measured_as_other_numbers_are(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    counted, summed = ImagePreprocess.fit(images), ImagePreprocess.fit(images.double())
    assert counted.mean == pytest.approx(summed.mean, rel=1e-12)
    assert counted.std == pytest.approx(summed.std, rel=1e-12)

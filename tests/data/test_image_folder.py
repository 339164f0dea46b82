import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.data.batches import Batches
from dlrun.data.image_folder import ImageFolder
from dlrun.data.image_parts import ImageFiles
from dlrun.data.images import read_image
from dlrun.errors import ConfigError, DataError
from dlrun.losses import CrossEntropy
from dlrun.tasks.classification import Classification


def picture(path, seed=0, size=(8, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def flat(tmp_path):
    for kind in ("cat", "dog"):
        for number in range(10):
            picture(tmp_path / kind / f"{number}.png", number + 100 * (kind == "dog"))
    return tmp_path


def folder(path, **settings):
    return ImageFolder(path=str(path), **settings)


def sizes(splits):
    return [len(part) for part in (splits.train, splits.val, splits.test)]


def test_a_folder_of_classes(flat):
    data = folder(flat)
    splits = data.load()
    facts = data.facts()
    assert facts == splits.facts
    assert facts.input_shape == (1, 6, 8)
    assert facts.classes == ("cat", "dog")
    assert facts.notes == ()
    assert sizes(splits) == [14, 2, 4] == list(facts.sizes.values())
    assert torch.bincount(splits.test.targets).tolist() == [2, 2]
    assert splits.train.inputs.dtype == torch.uint8
    every = [
        tuple(image.flatten().tolist()) for part in (splits.train, splits.val, splits.test) for image in part.inputs
    ]
    assert len(set(every)) == 20


def test_folders_for_the_parts(tmp_path):
    for part, count in (("train", 10), ("valid", 3), ("test", 2)):
        for kind in "ab":
            for number in range(count):
                picture(tmp_path / part / kind / f"{number}.png")
    assert sizes(folder(tmp_path).load()) == [20, 6, 4]
    shutil.rmtree(tmp_path / "valid")
    assert sizes(folder(tmp_path).load()) == [18, 2, 4]
    shutil.rmtree(tmp_path / "test")
    assert sizes(folder(tmp_path).load()) == [14, 2, 4]


def test_root_is_another_name_for_path(flat):
    assert ImageFolder(root=str(flat)).facts() == folder(flat).facts()


def test_sizes_and_modes_that_differ(flat):
    picture(flat / "cat" / "wide.png", size=(30, 20))
    picture(flat / "dog" / "colour.png", mode="RGB")
    facts = folder(flat).facts()
    assert facts.input_shape == (3, 64, 64)
    assert "resized to 64 x 64" in facts.notes[0]
    assert folder(flat, size=12).load().train.inputs.shape[1:] == (3, 12, 12)
    assert folder(flat, size=[5, 7], channels=1).load().train.inputs.shape[1:] == (1, 5, 7)


def test_streaming_gives_the_bits_of_reading_whole(flat):
    whole, stream = folder(flat).load(), folder(flat, memory=0).load()
    assert isinstance(stream.train, ImageFiles)
    assert "streamed" in stream.facts.notes[-1]
    assert stream.facts.input_shape == folder(flat).facts().input_shape
    assert stream.preprocess.state() == whole.preprocess.state()
    for epoch in (0, 1):
        batches = [
            list(
                Batches(s.train, preprocess=s.preprocess, batch_size=4, device=torch.device("cpu"), seed=0).epoch(epoch)
            )
            for s in (whole, stream)
        ]
        for (inputs, targets), (expected, labels) in zip(*batches, strict=True):
            assert torch.equal(inputs, expected)
            assert torch.equal(targets, labels)


@pytest.mark.parametrize("memory", [0, 2])
def test_the_fingerprint_sees_a_change(flat, memory):
    before = folder(flat, memory=memory).load().fingerprint
    assert folder(flat, memory=memory).load().fingerprint == before
    picture(flat / "cat" / "3.png", 999, size=(8, 6))
    os.utime(flat / "cat" / "3.png", (1, 1))
    assert folder(flat, memory=memory).load().fingerprint != before


def test_what_is_no_image_is_counted_and_passed_over(flat):
    (flat / "cat" / "notes.txt").touch()
    (flat / "cat" / ".hidden.png").touch()
    (flat / ".git").mkdir()
    (flat / "cat" / "gone.png").symlink_to(flat / "nowhere")
    (flat / "cat" / "round.png").symlink_to(flat / "cat" / "round.png")
    (flat / "cat" / "up").symlink_to(flat)
    (flat / "empty").mkdir()
    os.mkfifo(flat / "cat" / "pipe.png")
    facts = folder(flat).facts()
    assert facts.classes == ("cat", "dog")
    assert facts.notes == ("8 entries that are no image files were passed over.",)


def test_a_test_folder_without_classes_is_noted(tmp_path):
    for kind in "ab":
        for number in range(5):
            picture(tmp_path / "train" / kind / f"{number}.png")
    picture(tmp_path / "test" / "0.png")
    assert folder(tmp_path).facts().notes == (f"{tmp_path / 'test'} has no class folders and was passed over.",)


def make_empty(path):
    path.mkdir(exist_ok=True)


def make_one_class(path):
    picture(path / "cat" / "0.png")


def make_only_images(path):
    picture(path / "0.png")


def make_other_classes(path):
    for part, kinds in (("train", "ab"), ("test", "ac")):
        for kind in kinds:
            picture(path / part / kind / "0.png")


def make_damaged_header(path):
    picture(path / "a" / "0.png")
    (path / "b").mkdir()
    (path / "b" / "bad.png").write_text("no image")


def make_file(path):
    path.rmdir()
    path.touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_empty, "has no images in it: expected PATH/CLASS"),
        (make_other_classes, "differ: 'b' is in train/ alone"),
        (make_damaged_header, "bad.png is no image"),
        (make_file, "is no folder: expected PATH/CLASS"),
        (lambda path: path.rmdir(), "is missing: expected PATH/CLASS"),
    ],
)
def test_a_folder_that_cannot_be_used(make, words, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    make(root)
    with pytest.raises(DataError) as caught:
        folder(root).facts()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("make", "name"), [(make_only_images, "photos"), (make_one_class, "cat")])
def test_images_of_one_class_are_enough_to_learn_to_draw_them(make, name, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    make(root)
    facts = folder(root, test=0.0, val=0.0).facts()
    assert facts.classes == (name,)
    with pytest.raises(ConfigError, match="two classes or more; 'image_folder' has one class"):
        Classification(CrossEntropy(), facts)


def truncate(path):
    picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:2000])


def test_an_image_damaged_behind_its_header_is_named(flat):
    truncate(flat / "cat" / "4.png")
    data = folder(flat, size=8)
    data.facts()
    with pytest.raises(DataError, match=r"4\.png is damaged"):
        data.load()


def test_a_damaged_image_in_a_stream_is_named(flat):
    splits = folder(flat, size=8, memory=0).load()
    for path in flat.rglob("*.png"):
        truncate(path)
    loader = Batches(splits.train, preprocess=splits.preprocess, batch_size=4, device=torch.device("cpu"), seed=0)
    with pytest.raises(DataError, match=r"\.png is damaged"):
        next(loader.epoch(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "big"}, r"data\.size=big"),
        ({"size": 0}, r"data\.size=0"),
        ({"size": [3]}, r"data\.size=\[3\]"),
        ({"size": True}, r"data\.size=True"),
        ({"channels": 2}, r"data\.channels=2"),
        ({"augment": {"flop": True}}, "did you mean 'flip'"),
    ],
)
def test_a_wrong_setting_is_named(settings, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        folder(tmp_path, **settings)


def test_no_folder_given_names_the_command():
    with pytest.raises(ConfigError, match=r"`dlrun train data=image_folder data\.path=FOLDER`"):
        ImageFolder().facts()


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, monkeypatch):
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8))
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", quality=95)
    with Image.open(tmp_path / "photo.jpg") as image:
        whole = np.array(image.resize((60, 40), Image.Resampling.BILINEAR), dtype=np.int64)
    decoded = []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: decoded.append(image.size) or convert(image, mode))
    difference = np.abs(read_image(tmp_path / "photo.jpg", 1, (40, 60))[0].numpy() - whole)
    assert decoded == [(160, 120)]  # the smallest fraction that is at least twice the size wanted
    assert difference.mean() < 1.0  # of 255
    assert difference.max() <= 4


def test_real_photographs(shared_data):
    faces = shared_data / "orl-faces" / "att_faces"
    if not faces.is_dir():
        pytest.skip("no faces there")
    splits = folder(faces).load()
    assert splits.facts.input_shape == (1, 112, 92)
    assert splits.facts.num_classes == 40
    assert sizes(splits) == [288, 32, 80]
    assert (torch.bincount(splits.test.targets) == 2).all()


@pytest.mark.parametrize("memory", [-1, float("nan"), "much", True])
def test_a_memory_that_is_no_number_of_gibibytes_is_refused(memory):
    with pytest.raises(ConfigError, match=r"data\.memory=.* is no number of GiB"):
        ImageFolder(root="photos", memory=memory)

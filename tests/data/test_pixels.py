import json

import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.data import Examples, restore_preprocess
from dlrun.data.idx_files import IdxImages
from dlrun.data.image_folder import ImageFolder
from dlrun.data.pixels import NOTES, chosen_range, drawn, preprocess_for
from dlrun.data.sklearn_sets import Digits
from dlrun.data.torchvision_sets import TorchvisionImages
from dlrun.errors import ConfigError

RAW = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
LOWEST_AND_HIGHEST = {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0), "binary": (0.0, 1.0)}


@pytest.mark.parametrize("pixels", LOWEST_AND_HIGHEST)
def test_black_and_white_are_the_ends_of_the_range(pixels):
    ready = preprocess_for(pixels, RAW)(RAW)
    assert (ready.min().item(), ready.max().item()) == LOWEST_AND_HIGHEST[pixels]


@pytest.mark.parametrize("pixels", NOTES)
def test_the_state_survives_json_and_inverting_gives_the_raw_values(pixels):
    raw = RAW if pixels != "binary" else (RAW >= 128) * torch.tensor(255, dtype=torch.uint8)
    restored = restore_preprocess(json.loads(json.dumps(preprocess_for(pixels, raw).state())))
    torch.testing.assert_close(restored.invert(restored(raw)), raw / 255)


def test_inverting_cuts_off_what_no_pixel_can_be():
    preprocess = preprocess_for("symmetric", RAW)
    assert preprocess.invert(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1, 1)).flatten().tolist() == [0.0, 0.5, 1.0]


def test_a_drawn_pixel_is_white_as_often_as_it_is_bright():
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).expand(9000, 1, 1, 4)
    part = Examples(grey, torch.zeros(9000))
    (first,), (again,), (other,) = (drawn("binary", [part], seed) for seed in (0, 0, 1))
    assert first.inputs.dtype == torch.uint8
    assert set(first.inputs.unique().tolist()) == {0, 255}
    share = (first.inputs == 255).double().mean(0).flatten()
    # Five standard errors of 9,000 draws are 0.026; 0 and 255 leave nothing to chance.
    torch.testing.assert_close(share, torch.tensor([0, 0.2, 128 / 255, 1]).double(), atol=0.027, rtol=0)
    assert share[0] == 0
    assert share[3] == 1
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert torch.equal(preprocess_for("binary", first.inputs)(first.inputs), (first.inputs == 255).float())


def test_parts_of_other_ranges_are_left_alone():
    parts = [Examples(RAW, torch.zeros(1))]
    assert drawn("unit", parts, 0) is parts


@pytest.mark.parametrize("make", [Digits, lambda **keys: IdxImages(name="mnist", **keys)])
def test_the_task_chooses_unless_the_user_does(make):
    assert make().facts().notes == ()
    assert make(wanted_pixels="unit").facts().notes == NOTES["unit"]
    assert make(wanted_pixels="unit", pixels="standard").facts().notes == ()
    with pytest.raises(ConfigError, match=r"data\.pixels=unti .* did you mean 'unit'"):
        make(pixels="unti")


def test_colour_images_too():
    assert TorchvisionImages(name="cifar10", pixels="symmetric").facts().notes == NOTES["symmetric"]
    colours = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert preprocess_for("symmetric", colours)(colours)[0, 2].tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(("pixels", "values"), [("unit", 17), ("binary", 2)])
def test_digits_in_their_own_grey_levels(pixels, values):
    splits = Digits(pixels=pixels).load()
    ready = splits.preprocess(splits.train.inputs)
    assert splits.facts == Digits(pixels=pixels).facts()
    assert len(ready.unique()) == values
    assert (ready.min(), ready.max()) == (0, 1)


@pytest.mark.parametrize(("pixels", "wanted"), [("auto", "binary"), ("symmetric", "unit")])
def test_a_folder_read_whole_and_streamed(tmp_path, pixels, wanted):
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for number in range(6):
            grey = np.random.default_rng(number).choice(np.array([0, 255], np.uint8), (6, 8))
            Image.fromarray(grey).save(tmp_path / kind / f"{number}.png")
    name = wanted if pixels == "auto" else pixels
    whole, stream = (
        ImageFolder(path=str(tmp_path), pixels=pixels, wanted_pixels=wanted, memory=memory).load() for memory in (1, 0)
    )
    assert whole.facts.notes == NOTES[name]
    assert stream.facts.notes[:1] == NOTES[name]
    raw = torch.stack([stream.train[row][0] for row in range(len(stream.train))])
    assert torch.equal(stream.preprocess(raw), whole.preprocess(whole.train.inputs))


def test_an_unknown_range_lists_them_all():
    with pytest.raises(ConfigError, match="none of auto, standard, unit, symmetric, binary"):
        chosen_range("0..1", "standard")

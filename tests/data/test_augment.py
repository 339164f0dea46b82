import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.data.augment import Augment, EpochAugment, build_augment, check_fits, with_margin
from dlrun.data.hashing import mix, uniform
from dlrun.errors import ConfigError

IMAGES = torch.rand(64, 3, 12, 10, generator=torch.Generator().manual_seed(0)) + 0.5  # no zeros of their own
ROWS = torch.arange(64)
ALL_ON = Augment(crop=2, flip=True, erase=0.5)


def augmented(augment, images, key, indices):
    return augment(images, augment.draws(key, indices))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 63), min_size=1, max_size=64), st.integers(0, 2**62))
def test_an_example_is_augmented_the_same_in_any_batch(rows, key):
    index = torch.tensor(rows)
    whole = augmented(ALL_ON, IMAGES, key, ROWS)
    assert torch.equal(augmented(ALL_ON, IMAGES[index], key, index), whole[index])


def test_another_epoch_augments_otherwise():
    assert not torch.equal(augmented(ALL_ON, IMAGES, mix(0, 1), ROWS), augmented(ALL_ON, IMAGES, mix(0, 2), ROWS))


def test_crop_cuts_a_window_of_the_padded_image():
    pad = 2
    out = augmented(Augment(crop=pad), IMAGES, 5, ROWS)
    padded = torch.nn.functional.pad(IMAGES, (pad,) * 4)
    shifts = set()
    for row in range(64):
        match = [
            (y, x)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if torch.equal(padded[row, :, y : y + 12, x : x + 10], out[row])
        ]
        assert len(match) == 1
        shifts |= set(match)
    assert len(shifts) > 15  # of 25


def test_a_crop_that_may_show_nothing_of_an_image_is_refused():
    check_fits(None, (3, 4, 4))
    check_fits(Augment(crop=9), (3, 12, 10))
    with pytest.raises(ConfigError, match=r"data\.augment\.crop=10: the images are 12 x 10 pixels, .* here 1"):
        check_fits(Augment(crop=10), (3, 12, 10))


def test_what_lies_beside_an_image_in_memory_stays_out_of_it():
    images = IMAGES.clone()
    images[1::2] = torch.nan
    out = augmented(Augment(crop=40, flip=True, erase=0.5), images, 5, ROWS)
    assert not out[::2].isnan().any()
    assert (out[::2].flatten(1) == 0).all(1).any(), "some windows lie beyond the image: 40 is more than its 12 by 10"


@pytest.mark.parametrize("augment", [ALL_ON, Augment(crop=3), Augment(flip=True), Augment(crop=40), Augment(erase=1.0)])
@pytest.mark.parametrize("margin", [True, False])
def test_looking_up_and_cropping_in_one_gives_the_same_bits(augment, margin):
    held = with_margin(IMAGES.shape, IMAGES).copy_(IMAGES) if margin else IMAGES.clone()
    places = torch.tensor([63, 0, 5, 0, 62])  # the ends too, whose runs begin or end in the margin
    epoch = EpochAugment(augment, 7)
    expected = augmented(augment, IMAGES[places], 7, places)
    assert torch.equal(epoch(held, epoch.draws(places), places), expected)
    assert torch.equal(epoch(IMAGES[places], epoch.draws(places)), expected)
    assert torch.equal(held, IMAGES)


def test_flip_keeps_every_number_exactly():
    images = torch.tensor([torch.inf, -0.0, torch.nan, 3e38, -3e38, 1.0]).repeat(64, 1).view(64, 1, 1, 6)
    out = augmented(Augment(flip=True), images, 5, ROWS).view(torch.int32)
    mirrored, same = (out == images.flip(3).view(torch.int32)), (out == images.view(torch.int32))
    assert (mirrored.flatten(1).all(1) ^ same.flatten(1).all(1)).all()


def test_a_margin_moves_nothing_off_its_address():
    held = with_margin((5, 3, 15, 15), IMAGES)
    assert held.data_ptr() % 64 == 0
    assert held.storage_offset() >= 3 * 15 * 15


def test_flip_mirrors_about_half():
    out = augmented(Augment(flip=True), IMAGES, 5, ROWS)
    mirrored = (out == IMAGES.flip(3)).flatten(1).all(1)
    untouched = (out == IMAGES).flatten(1).all(1)
    assert (mirrored ^ untouched).all()
    assert 16 < mirrored.sum() < 48


def test_erase_empties_one_rectangle_of_the_chosen_share():
    images = torch.ones(2000, 1, 16, 16)
    out = augmented(Augment(erase=0.25), images, 9, torch.arange(2000))
    holes = out == 0
    erased = holes.flatten(1).any(1)
    assert 0.2 < erased.float().mean() < 0.3
    for hole in holes[erased][:100, 0]:
        tall, wide = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == tall * wide
    area = holes[erased].float().flatten(1).mean(1)
    assert area.min() > 0.01
    assert area.max() < 0.4


def test_erase_of_one_erases_every_image_and_inputs_are_left_alone():
    before = IMAGES.clone()
    out = augmented(Augment(crop=1, flip=True, erase=1.0), IMAGES, 1, ROWS)
    assert (out == 0).flatten(1).any(1).all()
    assert torch.equal(IMAGES, before)


def test_uniform_numbers_are_uniform_and_uncorrelated():
    draws = uniform(mix(0, 0), torch.arange(20000), 4)
    assert draws.shape == (4, 20000)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, 16, 0, 1)
    expected = draws.numel() / 16
    assert ((counts - expected).square() / expected).sum() < 45  # chi-square with 15 degrees: 1 in 10,000 is above
    neighbours = torch.corrcoef(torch.cat([draws, draws.roll(1, 1)]))
    assert (neighbours - torch.eye(8)).abs().max() < 0.04


def test_mix_depends_on_every_number_and_their_order():
    keys = {mix(seed, epoch) for seed in range(100) for epoch in range(100)}
    assert len(keys) == 10000
    assert mix(1, 2) != mix(2, 1)
    assert mix(2**40) != mix(0)
    assert all(0 <= key < 2**63 for key in keys)


def test_nothing_on_is_none():
    assert build_augment(None) is None
    assert build_augment({"crop": 0, "flip": False, "erase": 0.0}) is None
    assert build_augment({"crop": 4, "flip": True}) == Augment(4, True, 0.0)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"crops": 4}, "did you mean 'crop'"),
        ({"crop": -1}, r"data\.augment\.crop=-1"),
        ({"crop": 1.5}, r"data\.augment\.crop=1\.5"),
        ({"flip": "yes"}, r"data\.augment\.flip=yes"),
        ({"erase": 1.5}, r"data\.augment\.erase=1\.5"),
        ({"erase": True}, r"data\.augment\.erase=True"),
    ],
)
def test_a_wrong_setting_is_named(node, words):
    with pytest.raises(ConfigError, match=words):
        build_augment(node)

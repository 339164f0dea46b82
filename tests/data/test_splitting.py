import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlrun.data.splitting import held_out_count, split_indices
from dlrun.errors import ConfigError

labels_and_share = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=200),
    st.floats(0, 0.95),
    st.integers(0, 2**40),
)


@given(labels_and_share)
def test_parts_are_disjoint_complete_and_sorted(case):
    labels, share, seed = case
    for given_labels in (None, torch.tensor(labels)):
        kept, held = split_indices(len(labels), share, seed, given_labels)
        assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
        assert kept.tolist() == sorted(kept.tolist())
        assert held.tolist() == sorted(held.tolist())
        assert len(held) == held_out_count(len(labels), share)


@given(labels_and_share)
def test_each_class_gives_its_share_to_within_one(case):
    labels, share, seed = case
    held = split_indices(len(labels), share, seed, torch.tensor(labels))[1]
    given_up = [labels[row] for row in held.tolist()]
    for label in set(labels):
        exact = labels.count(label) * len(held) / len(labels)
        assert abs(given_up.count(label) - exact) < 1 + 1e-9


def test_same_seed_same_split_and_another_seed_another():
    labels = torch.arange(1000) % 10
    first, again, other = (split_indices(1000, 0.2, seed, labels)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    split_indices(100, 0.2, 0, torch.arange(100) % 3)
    assert torch.equal(before, torch.get_rng_state())


def test_share_of_zero_holds_out_nothing_and_any_other_share_something():
    assert len(split_indices(10, 0.0, 0)[1]) == 0
    assert len(split_indices(10, 0.001, 0)[1]) == 1
    assert len(split_indices(1, 0.5, 0)[0]) == 1


def test_a_class_of_one_example_stays_in_training():
    labels = torch.tensor([0] * 5 + [1])
    for seed in range(20):
        assert 5 in split_indices(6, 0.5, seed, labels)[0]


def test_published_sizes_follow_from_the_share_alone():
    assert held_out_count(60000, 0.1) == 6000
    assert held_out_count(60000, 1 / 12) == 5000


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_a_share_outside_the_range_is_refused(share):
    with pytest.raises(ConfigError, match=r"data\.val and data\.test"):
        split_indices(10, share, 0)

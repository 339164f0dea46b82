"""Each lane of a pack has the batches that it would have alone, in the same order."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlrun.data import Examples
from dlrun.data.augment import Augment
from dlrun.data.batches import Batches
from dlrun.packing.batches import packed_batches
from dlrun.packing.gradient import PackedBatch
from tiny import CPU, AsIs, batches


def expected(lane: Batches, step: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """What the loop of a Trainer takes from step ``step`` on."""
    found = []
    while len(found) < count:
        epoch, start = divmod(step + len(found), len(lane))
        found += list(lane.epoch(epoch, start))
    return found[:count]


def taken(lanes: list[Batches], step: int, count: int) -> list[PackedBatch]:
    found = islice(packed_batches(lanes, step), count)
    return [PackedBatch(batch.inputs.clone(), batch.targets.clone(), batch.shared) for batch in found]


def assert_own(lanes: list[Batches], step: int, count: int = 9) -> list[PackedBatch]:
    found = taken(lanes, step, count)
    for lane, batches_alone in enumerate(lanes):
        for mine, wanted in zip(found, expected(batches_alone, step, count), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine.of(lane), wanted, strict=True))
    return found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 13), st.integers(1, 12), st.integers(1, 13))
def test_lanes_have_the_batches_that_they_have_alone(seeds: list[int], step: int, size: int, count: int) -> None:
    whole = batches(count, size)
    found = assert_own([whole.under(seed) for seed in seeds], step)
    assert all(batch.shared == (len(set(seeds)) == 1) for batch in found)


def test_lanes_of_one_seed_share_the_tensors() -> None:
    whole = batches(10)
    (batch,) = taken([whole, whole.under(0), whole.under(0)], 0, 1)
    assert batch.shared
    assert batch.inputs.shape == (4, 3)
    assert all(batch.of(lane)[0] is batch.inputs for lane in range(3))


def test_batches_of_another_size_have_another_form() -> None:
    first, second, third = taken([batches(10), batches(10).under(1)], 0, 3)
    assert first.form == second.form != third.form
    assert third.inputs.shape == (2, 2, 3)
    shared = taken([batches(10)], 0, 1)[0]
    assert shared.form != first.form


def test_augmented_batches_are_each_lanes_own() -> None:
    pictures = Examples(torch.randn(10, 1, 4, 4), torch.randn(10, 1))
    augment = Augment(crop=1, flip=True)
    whole = Batches(pictures, preprocess=AsIs(), batch_size=4, device=CPU, seed=0, augment=augment)
    assert_own([whole.under(seed) for seed in (0, 1, 0)], 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_examples_that_are_preprocessed_batch_by_batch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(AsIs):
        def __call__(self, inputs: Tensor) -> Tensor:
            return inputs.float() / 7

    monkeypatch.setattr("dlrun.data.held.HOST_LIMIT", 0)  # no room for the finished examples
    points = Examples(torch.randint(0, 200, (11, 3)).to(dtype), torch.arange(11))
    whole = Batches(points, preprocess=Scaled(), batch_size=4, device=CPU, seed=0, resident=True)
    assert whole.placement.endswith("batch by batch")
    assert_own([whole.under(seed) for seed in (0, 1)], 1)

"""Batches for recordings: the same as the loop's own, from tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from dlrun.data import Examples
from dlrun.data.augment import Augment
from dlrun.data.batches import Batches
from dlrun.data.windows import Windows
from dlrun.engines.feed import Gathered, Handed, Inputs
from tiny import CPU, AsIs


class Doubling(AsIs):
    """Preprocessing that is done batch by batch."""

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs.float() * 2


def images(size: int = 4, **more: Any) -> Batches:
    values = torch.arange(17 * 25).reshape(17, 1, 5, 5)
    parts: dict[str, Any] = {"preprocess": AsIs(), "batch_size": size, "device": CPU, "seed": 3}
    return Batches(Examples(more.pop("values", values.float()), torch.arange(17)), **(parts | more))


def sequence(**more: Any) -> Batches:
    part = Windows(torch.arange(100), torch.arange(0, 90, 5), 4, slack=4)
    return Batches(part, preprocess=AsIs(), batch_size=5, device=CPU, seed=3, **more)


KINDS: dict[str, Callable[[], Batches]] = {
    "as they lie": images,
    "one batch": lambda: images(17),
    "one batch and one more example": lambda: images(16, augment=Augment(crop=2)),
    "augmented": lambda: images(augment=Augment(crop=2, flip=True, erase=0.9)),
    "one augmented batch": lambda: images(17, augment=Augment(crop=2)),
    "preprocessed batch by batch": lambda: images(
        values=torch.arange(17 * 25, dtype=torch.uint8).reshape(17, 1, 5, 5), preprocess=Doubling()
    ),
    "windows": sequence,
    "windows that continue": lambda: sequence(consecutive=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_gathered_batches_are_those_of_the_epoch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "preprocessed batch by batch":
        monkeypatch.setattr("dlrun.data.held._room", lambda device: 0)
    batches = KINDS[kind]()
    feed, step = Gathered(batches, CPU), 0
    for epoch in range(3):
        for inputs, targets in batches.epoch(epoch):
            form, alike = feed.coming(step)
            assert (form, alike >= 1) == (len(targets), True)
            slot = feed.slot(form, 1)
            feed.load(slot, step)
            found = feed.batch(slot, 0)
            assert torch.equal(found[0], inputs)
            assert torch.equal(found[1], targets)
            step += 1


def test_several_steps_are_loaded_at_once_up_to_a_batch_of_another_size() -> None:
    batches = images()  # 17 examples: three batches of 4 and one of 5
    feed = Gathered(batches, CPU)
    assert [feed.coming(step) for step in range(5)] == [(4, 3), (4, 2), (4, 1), (5, 1), (4, 3)]
    slot = feed.slot(4, 3)
    feed.load(slot, 4)
    for place, (inputs, targets) in enumerate(islice(batches.epoch(1), 3)):
        found = feed.batch(slot, place)
        assert torch.equal(found[0], inputs)
        assert torch.equal(found[1], targets)


def test_a_slot_stays_where_it_is() -> None:
    feed = Gathered(images(), CPU)
    slot = feed.slot(4, 2)
    places = []
    for step in (0, 4, 8):
        feed.load(slot, step)
        places.append((slot[0].data_ptr(), feed.keys.data_ptr()))
    assert len(set(places)) == 1


def test_a_batch_that_comes_is_copied_and_asked_for_once() -> None:
    given = [(torch.full((2, 3), float(i)), torch.full((2,), i)) for i in range(3)]
    feed = Handed(iter(given))
    form, alike = feed.coming(0)
    assert alike == 1
    assert feed.coming(0)[0] == form
    slot = feed.slot(form, 1)
    for i in range(3):
        feed.coming(i)
        feed.load(slot, i)
        inputs, targets = feed.batch(slot, 0)
        assert inputs is slot[0]
        assert torch.equal(inputs, given[i][0])
        assert torch.equal(targets, given[i][1])


def test_rates_are_written_when_they_change() -> None:
    inputs = Inputs((torch.zeros(2, 4),), 2, 1)
    inputs.set_rates([[0.5], [0.25]])
    assert inputs.rates.tolist() == [[0.5], [0.25]]
    inputs.rates.zero_()
    inputs.set_rates([[0.5], [0.25]])
    assert inputs.rates.tolist() == [[0.0], [0.0]]
    inputs.set_rates([[0.5], [0.125]])
    assert inputs.rates.tolist() == [[0.5], [0.125]]

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from dlrun.data import Examples
from dlrun.data.augment import Augment
from dlrun.data.batches import Batches
from dlrun.data.images import ImagePreprocess
from dlrun.data.streaming import batch_sizes
from dlrun.errors import ConfigError, DataError

CPU = torch.device("cpu")
# Python 3.12 and later remark on any fork of a process with threads; torch's own loader forks.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Identity:
    def __call__(self, inputs):
        return inputs


def table(n=23):
    return Examples(torch.arange(n, dtype=torch.float32).unsqueeze(1), torch.arange(n))


def images(n=23):
    generator = torch.Generator().manual_seed(1)
    return Examples(torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(n) % 3)


class Files(Dataset):
    def __init__(self, part, noisy=False, broken=None):
        self.part, self.noisy, self.broken, self.asked = part, noisy, broken, []

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        self.asked.append(index)
        if index == self.broken:
            raise DataError("photo.png is damaged.")
        inputs = self.part.inputs[index]
        return inputs + random.random() + torch.rand(()) if self.noisy else inputs, self.part.targets[index]


def make(part, batch_size=5, preprocess=None, **settings):
    settings = {"device": CPU, "seed": 3} | settings
    return Batches(part, preprocess=preprocess or Identity(), batch_size=batch_size, **settings)


def listed(pairs):
    return [(inputs.clone(), targets.clone()) for inputs, targets in pairs]


def same(first, second):
    first, second = listed(first), listed(second)
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 50), st.booleans())
def test_an_epoch_holds_every_example_once_and_can_start_late(n, batch_size, start, streamed):
    part = Files(table(n)) if streamed else table(n)
    loader = make(part, batch_size)
    whole = listed(loader.epoch(2))
    assert len(whole) == len(loader)
    assert [len(targets) for _, targets in whole] == batch_sizes(n, batch_size)
    assert sorted(torch.cat([targets for _, targets in whole]).tolist()) == list(range(n))
    assert all(torch.equal(inputs[:, 0].long(), targets) for inputs, targets in whole)
    assert same(loader.epoch(2, start), whole[start:])


def test_the_order_is_a_function_of_seed_and_epoch():
    first = make(table())
    assert same(first.epoch(0), make(table()).epoch(0))
    assert not same(first.epoch(0), first.epoch(1))
    assert not same(first.epoch(0), make(table(), seed=4).epoch(0))


def test_batch_size_does_not_change_the_order():
    orders = [torch.cat([targets for _, targets in make(table(), size).epoch(1)]) for size in (1, 4, 22)]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_a_batch_of_everything_is_the_tensors_themselves():
    part = table()
    ((inputs, targets),) = make(part, 100).epoch(0)
    assert inputs.data_ptr() == part.inputs.data_ptr()
    assert targets.data_ptr() == part.targets.data_ptr()
    assert list(make(part, 100).epoch(0, 1)) == []


@pytest.mark.parametrize("wrap", [lambda part: part, Files])
def test_evaluation_is_in_order_without_augmentation(wrap):
    part = images()
    loader = make(wrap(part), augment=Augment(flip=True, erase=1.0))
    assert torch.equal(torch.cat([inputs for inputs, _ in loader.in_order()]), part.inputs)
    assert torch.equal(torch.cat([targets for _, targets in loader.in_order()]), part.targets)


def test_held_streamed_and_batchwise_preprocessing_give_the_same_bits(monkeypatch):
    part, augment = images(), Augment(crop=2, flip=True, erase=0.5)
    preprocess = ImagePreprocess.fit(part.inputs)
    once = make(part, preprocess=preprocess, augment=augment)
    streamed = make(Files(part), preprocess=preprocess, augment=augment)
    monkeypatch.setattr("dlrun.data.held.HOST_LIMIT", 100)
    batchwise = make(part, preprocess=preprocess, augment=augment)
    assert (once.placement, streamed.placement) == ("in memory", "streamed")
    assert batchwise.placement == "in memory, preprocessed batch by batch"
    assert same(once.epoch(1), streamed.epoch(1))
    assert same(once.epoch(1, 2), batchwise.epoch(1, 2))
    assert same(once.in_order(), batchwise.in_order())
    assert same(make(part, 99, preprocess).epoch(0), [(preprocess(part.inputs), part.targets)])


def test_preprocessing_in_chunks_equals_preprocessing_at_once(monkeypatch):
    part = images()
    preprocess = ImagePreprocess.fit(part.inputs)
    monkeypatch.setattr("dlrun.data.held.CHUNK_BYTES", 3 * 8 * 8 * 4 * 4)
    held = torch.cat([inputs for inputs, _ in make(part, preprocess=preprocess).in_order()])
    assert torch.equal(held, preprocess(part.inputs))


def test_augmentation_is_independent_of_batch_size_and_resume():
    part, augment = images(), Augment(crop=2, flip=True, erase=0.5)
    floats = Examples(part.inputs.float(), part.targets)
    small, large = (make(floats, size, augment=augment) for size in (3, 10))
    assert torch.equal(*(torch.cat([inputs for inputs, _ in loader.epoch(4)]) for loader in (small, large)))
    assert same(small.epoch(4, 3), listed(small.epoch(4))[3:])
    assert not same(small.epoch(4), make(floats, 3).epoch(4))


def test_looking_up_several_batches_together_changes_no_bit(monkeypatch):
    part = images(70)
    loader = make(part, 8, ImagePreprocess.fit(part.inputs), augment=Augment(crop=2, flip=True))
    together = list(loader.epoch(1, 1))
    assert len({inputs.untyped_storage().data_ptr() for inputs, _ in together}) == 1
    monkeypatch.setattr("dlrun.data.held.DRAWN_AT_ONCE", 0)
    assert same(together, loader.epoch(1, 1))
    monkeypatch.setattr("dlrun.data.held.TOGETHER_BYTES", 0)
    alone = list(loader.epoch(1, 1))
    assert len({inputs.untyped_storage().data_ptr() for inputs, _ in alone}) == len(alone) > 1
    assert same(together, alone)


@pytest.mark.parametrize("augment", [None, Augment(crop=2, flip=True)])
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 10])
def test_every_batch_begins_where_a_tensor_of_its_own_does(batch_size, shard, augment):
    """Matrix products give other last bits at other addresses, and a resumed epoch looks up other batches together."""
    pictures = Examples(torch.rand(70, 1, 5, 5), torch.arange(70))
    loader = make(pictures, batch_size, shard=shard, augment=augment)
    batches = list(loader.epoch(1, 1))
    assert all(tensor.data_ptr() % 64 == 0 for batch in batches for tensor in batch)


@forks
def test_workers_change_no_bit_even_of_items_with_randomness_of_their_own():
    part = Files(table(), noisy=True)
    alone, helped = make(part), make(part, workers=2)
    assert same(alone.epoch(1), helped.epoch(1))
    assert same(helped.epoch(1, 2), listed(alone.epoch(1))[2:])
    assert not same(alone.epoch(1), alone.epoch(2))


@forks
def test_leaving_an_epoch_half_way_ends_its_workers():
    from multiprocessing import active_children

    before = set(active_children())
    epoch = make(Files(table()), 2, workers=2).epoch(0)
    next(epoch)
    assert len(set(active_children()) - before) == 2
    epoch.close()
    assert set(active_children()) <= before


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=forks)])
def test_an_error_in_a_worker_keeps_its_sentence(workers):
    loader = make(Files(table(), broken=7), workers=workers)
    with pytest.raises(DataError, match=r"^photo\.png is damaged\.$"):
        list(loader.in_order())


def test_skipped_batches_are_not_read():
    part = Files(table())
    list(make(part).epoch(0, 4))
    assert len(part.asked) == 3


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: Files(part, noisy=True)])
def test_no_global_generator_is_consumed(wrap):
    loader = make(wrap(table()))
    before = torch.get_rng_state(), random.getstate()
    list(loader.epoch(0))
    list(loader.in_order())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@pytest.mark.parametrize("wrap", [lambda part: part, Files])
def test_an_empty_part_has_no_batches(wrap):
    loader = make(wrap(table(0)), augment=Augment(flip=True))
    assert len(loader) == len(list(loader.epoch(0))) == len(list(loader.in_order())) == 0


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"trainer\.batch_size"):
        make(table(), 0)
    with pytest.raises(ConfigError, match=r"data\.memory"):
        make(Files(table()), resident=True)


@pytest.mark.gpu
@pytest.mark.parametrize("resident", ["auto", False])
def test_the_device_gives_the_order_and_draws_of_the_cpu(resident):
    part, augment = images(), Augment(crop=2, flip=True)
    preprocess = ImagePreprocess.fit(part.inputs)
    device = torch.device("cuda")
    expected = listed(make(part, preprocess=preprocess, augment=augment).epoch(1))
    for source in (part, Files(part)):
        setting = resident if source is part else "auto"
        loader = make(source, preprocess=preprocess, augment=augment, device=device, resident=setting)
        for (inputs, targets), (known, labels) in zip(loader.epoch(1), expected, strict=True):
            assert inputs.device.type == "cuda"
            torch.testing.assert_close(inputs.cpu(), known, rtol=1e-6, atol=1e-6)
            assert torch.equal(targets.cpu(), labels)


@pytest.mark.parametrize(
    ("examples", "size", "sizes"),
    [(0, 4, []), (1, 4, [1]), (3, 4, [3]), (4, 4, [4]), (5, 4, [5]), (6, 4, [4, 2]), (9, 4, [4, 5]), (3, 1, [1, 1, 1])],
)
def test_a_last_batch_of_one_joins_the_one_before(examples: int, size: int, sizes: list[int]) -> None:
    assert batch_sizes(examples, size) == sizes

import weakref
from contextlib import contextmanager

import pytest
import torch

from dlrun.data.images import ImagePreprocess
from dlrun.data.moving import Beside, InPlace, mover, pinned, staged

CPU = torch.device("cpu")
COPYING, COMPUTING = 0, 1


class RaceError(AssertionError):
    """Two streams touch the same memory, and neither waits for the other."""


class WatchedStreams:
    """Two streams that exist only as clocks: a use of memory that the other stream's use does not precede is a race.

    A clock holds how many operations of each stream are over when the next one of this stream begins. Memory goes back
    as soon as its tensor does, as the caching allocator has it: the next copy takes the same place.
    """

    def __init__(self, *, computing_waits=True, copying_waits=True):
        self.heeded = computing_waits, copying_waits
        self.clocks = [[0, 0], [0, 0]]
        self.current = COMPUTING
        self.written: dict[int, int] = {}  # place -> the copying stream's operation that wrote it last
        self.read: dict[int, int] = {}  # place -> the computing stream's operation that read it last
        self.free: list[torch.Tensor] = []
        self.copies = 0

    @contextmanager
    def copying(self):
        before, self.current = self.current, COPYING
        yield
        self.current = before

    def copy(self, tensor):
        assert self.current == COPYING, "a copy that the computing waits behind is not beside it"
        fits = (old for old in self.free if old.shape == tensor.shape and old.dtype == tensor.dtype)
        place = next(fits, None)
        self.free = [old for old in self.free if old is not place]
        place = torch.empty_like(tensor) if place is None else place
        out = place.detach()
        weakref.finalize(out, lambda: self.free.append(place))
        clock = self._begin(COPYING)
        if self.read.get(out.data_ptr(), 0) > clock[COMPUTING]:
            raise RaceError("a copy overwrites what the computing stream still reads")
        self.written[out.data_ptr()] = clock[COPYING]
        self.copies += 1
        return out.copy_(tensor)

    def use(self, tensor):
        """Note that the computing stream reads a tensor now."""
        clock = self._begin(COMPUTING)
        if self.written.get(tensor.data_ptr(), 0) > clock[COPYING]:
            raise RaceError("the computing stream reads what is still being copied")
        if tensor.data_ptr() in self.written:
            self.read[tensor.data_ptr()] = clock[COMPUTING]

    def _begin(self, stream):
        self.clocks[stream][stream] += 1
        return self.clocks[stream]

    def computing_waits(self):
        if self.heeded[0]:
            self.clocks[COMPUTING][COPYING] = self.clocks[COPYING][COPYING]

    def copying_waits(self):
        if self.heeded[1]:
            self.clocks[COPYING][COMPUTING] = self.clocks[COMPUTING][COMPUTING]


class Doubled:
    def __init__(self, streams):
        self.streams = streams

    def __call__(self, inputs):
        self.streams.use(inputs)
        return inputs.float() * 2


class AsItIs(Doubled):
    def __call__(self, inputs):
        self.streams.use(inputs)
        return inputs


def raw(number):
    return torch.full((4, 3), number, dtype=torch.uint8), torch.full((4,), number)


@pytest.mark.parametrize(("kind", "factor"), [(Doubled, 2), (AsItIs, 1)])
def test_batches_arrive_whole_and_own_their_memory(kind, factor):
    streams = WatchedStreams()
    move = Beside(kind(streams), streams)
    kept = []
    for number in range(1, 6):
        inputs, targets = move(raw(number))
        streams.use(inputs)  # the step
        kept.append((inputs, targets))
    places = set(streams.written)
    assert streams.copies == 10
    assert len(places) <= 4, "the memory of one raw batch is used again and again"
    for number, (inputs, targets) in enumerate(kept, 1):
        assert {inputs.data_ptr(), targets.data_ptr()} & places == set()
        assert (inputs == number * factor).all()
        assert (targets == number).all()


@pytest.mark.parametrize(
    ("forgotten", "words"),
    [({"computing_waits": False}, "still being copied"), ({"copying_waits": False}, "still reads")],
)
def test_a_forgotten_wait_is_a_race(forgotten, words):
    streams = WatchedStreams(**forgotten)
    move = Beside(Doubled(streams), streams)
    batches = map(move, map(raw, range(5)))
    with pytest.raises(RaceError, match=words):
        list(batches)


def test_on_the_cpu_nothing_is_moved_or_copied():
    move = mover(lambda inputs: inputs, CPU)
    assert isinstance(move, InPlace)
    batch = raw(3)
    inputs, targets = move(batch)
    assert inputs.data_ptr() == batch[0].data_ptr()
    assert targets.data_ptr() == batch[1].data_ptr()
    assert pinned(batch[0], CPU) is batch[0]
    assert torch.equal(staged(torch.arange(10), torch.tensor([7, 2]), CPU), torch.tensor([7, 2]))


@pytest.mark.gpu
def test_on_a_gpu_every_batch_arrives_whole_while_the_device_is_busy():
    device = torch.device("cuda")
    images = torch.randint(0, 256, (64, 256, 3, 64, 64), dtype=torch.uint8)
    preprocess = ImagePreprocess(mean=[0.5] * 3, std=[0.25] * 3, channels=3, size=(64, 64))
    move = mover(preprocess, device)
    busy = torch.randn(2048, 2048, device=device)
    arrived, labels = [], []
    for number, some in enumerate(images):
        rows = torch.arange(len(some))
        inputs, targets = move((staged(some, rows, device), torch.full((256,), number).pin_memory()))
        for _ in range(20):  # the program is far ahead of the device
            busy = torch.tanh(busy @ busy)
        arrived.append(inputs.double().sum())
        labels.append(targets)
    known = torch.stack([preprocess(some.to(device)).double().sum() for some in images])
    assert torch.equal(torch.stack(arrived), known)
    assert torch.stack(labels).eq(torch.arange(64, device=device)[:, None]).all()


@pytest.mark.gpu
def test_on_a_gpu_one_raw_batch_is_held_however_far_the_program_runs_ahead():
    device = torch.device("cuda")
    some = torch.zeros(256, 3, 128, 128, dtype=torch.uint8).pin_memory()
    move = mover(ImagePreprocess(mean=[0.0], std=[1.0], channels=3, size=(128, 128)), device)
    busy = torch.randn(4096, 4096, device=device)
    for _ in range(2):  # the products' own memory, 67 MB each, is there before it is counted
        move((some, torch.zeros(256)))
        busy = torch.tanh(busy @ busy)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for _ in range(50):
        move((some, torch.zeros(256)))
        busy = torch.tanh(busy @ busy)
    assert torch.cuda.memory_reserved() - before < 12 * some.numel()  # 50 raw batches would be 50

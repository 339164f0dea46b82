"""Windows of one sequence, and batches of them that are shuffled or continue one another."""

from __future__ import annotations

import itertools

import torch

from dlrun.data.batches import Batches
from dlrun.data.windows import Windows
from tiny import AsIs

CPU = torch.device("cpu")


def text(count: int = 41, length: int = 4, slack: int = 0) -> Windows:
    values = torch.arange(count)
    return Windows(values, torch.arange(0, count - length, length), length, slack=slack)


def batches(part: Windows, size: int, consecutive: bool = False, seed: int = 0) -> Batches:
    return Batches(part, preprocess=AsIs(), batch_size=size, device=CPU, seed=seed, consecutive=consecutive)


def test_tokens_are_followed_by_the_next_ones() -> None:
    part = text()
    inputs, targets = part.gather(torch.tensor([0, 3]))
    assert inputs.tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(part.gather(torch.tensor([0]), shift=2)[0], torch.tensor([[2, 3, 4, 5]]))
    assert part.targets is part.values


def test_a_series_is_followed_by_the_values_ahead_in_their_columns() -> None:
    values = torch.arange(40.0).reshape(20, 2)
    part = Windows(values, torch.arange(20 - 5), length=3, horizon=2, columns=1)
    inputs, targets = part.gather(torch.tensor([4]))
    assert torch.equal(inputs[0], values[4:7])
    assert torch.equal(targets[0], values[7:9, :1])
    every = Windows(values, torch.arange(15), length=3, horizon=2)
    assert torch.equal(every.gather(torch.tensor([4]))[1][0], values[7:9])


def test_some_windows_are_taken() -> None:
    part = text().take(torch.tensor([1, 2]))
    assert len(part) == 2
    assert part.gather(torch.tensor([0]))[0].tolist() == [[4, 5, 6, 7]]


def test_an_epoch_sees_every_window_once_in_an_order_of_its_own() -> None:
    part = text()
    epochs = [torch.cat([x[:, 0] for x, _ in batches(part, 3).epoch(epoch)]) for epoch in (0, 0, 1)]
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])
    assert sorted(epochs[0].tolist()) == part.starts.tolist()


def test_slack_moves_all_windows_of_an_epoch_together() -> None:
    part = text(count=44, slack=3)
    shifts = set()
    for epoch in range(20):
        starts = torch.cat([x[:, 0] for x, _ in batches(part, 4).epoch(epoch)]).sort().values
        shift = int(starts[0])
        assert torch.equal(starts, part.starts + shift)
        shifts.add(shift)
    assert shifts == {0, 1, 2, 3}
    evaluated = torch.cat([x[:, 0] for x, _ in batches(part, 4).in_order()])
    assert torch.equal(evaluated, part.starts)


def test_a_resumed_epoch_goes_on_where_it_was() -> None:
    part = text(slack=1, count=46)
    whole = [x for x, _ in batches(part, 3).epoch(2)]
    rest = [x for x, _ in batches(part, 3).epoch(2, start=2)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_consecutive_batches_continue_one_another_row_by_row() -> None:
    part = text(count=4 * 11 + 1)  # eleven windows, three rows: two are left out of an epoch of training
    one = batches(part, 3, consecutive=True)
    assert len(one) == 3
    seen = [x for x, _ in one.epoch(5)]
    assert [len(x) for x in seen] == [3, 3, 3]
    for before, after in itertools.pairwise(seen):
        assert torch.equal(after[:, 0], before[:, -1] + 1)


def test_evaluation_in_consecutive_batches_sees_every_window() -> None:
    part = text(count=4 * 11 + 1)
    seen = [x for x, _ in batches(part, 3, consecutive=True).in_order()]
    assert [len(x) for x in seen] == [3, 3, 3, 2]
    for before, after in itertools.pairwise(seen):
        assert torch.equal(after[:, 0], before[: len(after), -1] + 1)
    assert sorted(torch.cat([x[:, 0] for x in seen]).tolist()) == part.starts.tolist()


def test_a_part_of_items_of_different_shapes_comes_one_by_one() -> None:
    class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
        singly = True
        targets = torch.zeros(3)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(1, 2 + index, 3), torch.zeros(())

    one = Batches(Pictures(), preprocess=AsIs(), batch_size=500, device=CPU, seed=0)
    assert [tuple(x.shape) for x, _ in one.in_order()] == [(1, 1, 2, 3), (1, 1, 3, 3), (1, 1, 4, 3)]

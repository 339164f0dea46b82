"""Every instant of a block belongs to exactly one phase."""

from __future__ import annotations

import pytest
import torch

from dlrun.profiling.clock import ROOT, Block, Clock, Cost, DeviceMeter, HostMeter, calibrate, meter_of

A, B = ("", "a"), ("", "b")


class Hand:
    """A clock whose hand the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_nested_phases_take_their_time_from_the_one_around() -> None:
    hand = Hand()
    clock = Clock(HostMeter(hand))

    def inner() -> None:
        hand.at += 5

    def outer() -> None:
        hand.at += 1
        clock.spanned(B, inner)()
        hand.at += 2

    clock.start()
    hand.at += 10
    clock.spanned(A, outer)()
    clock.spanned(B, inner)()
    hand.at += 100
    block = clock.stop(4)
    assert dict(block.amounts) == {ROOT: 110, A: 3, B: 10}
    assert block.whole == 123
    assert block.steps == 4
    assert (block.spans[A], block.spans[B], block.inside[ROOT], block.inside[A]) == (1, 2, 2, 1)


def test_a_phase_ends_also_when_its_call_raises() -> None:
    hand = Hand()
    clock = Clock(HostMeter(hand))

    def fails() -> None:
        hand.at += 1
        raise ValueError

    clock.start()
    with pytest.raises(ValueError):
        clock.spanned(A, fails)()
    hand.at += 7
    assert dict(clock.stop(1).amounts) == {ROOT: 7, A: 1}


def test_a_rare_phase_is_told_apart_in_blocks_alone() -> None:
    hand = Hand()
    clock = Clock(HostMeter(hand))

    def work() -> int:
        hand.at += 1
        return 3

    call = clock.rarely(A, work)
    assert call() == 3
    clock.start(detailed=False)
    assert not clock.detailed
    assert call() == 3
    assert clock.stop(1).amounts[A] == 1
    assert not clock.running


def test_the_cost_of_the_stamps_counts_both_sides() -> None:
    block = Block(steps=1)
    block.spans[A], block.inside[A] = 3, 2
    assert Cost(within=0.5, around=10.0).of(block, A) == 3 * 0.5 + 2 * 10.0


def test_calibration_finds_what_a_stamp_costs() -> None:
    """A clock that moves by 1 each time it is read: one reading within a phase, one more around it."""

    class Reading:
        at = 0.0

        def __call__(self) -> float:
            self.at += 1
            return self.at

    cost = calibrate(HostMeter(Reading()))
    assert cost.within == 1
    assert cost.around == pytest.approx(1, abs=0.01)  # the block's own last reading is shared by all calls


def test_the_meter_follows_the_device() -> None:
    assert isinstance(meter_of(torch.device("cpu")), HostMeter)
    assert isinstance(meter_of(torch.device("cuda")), DeviceMeter)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_phase_is_charged_the_work_it_queued() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    clock = Clock(DeviceMeter(device))

    def heavy() -> None:
        for _ in range(20):
            matrix @ matrix

    def light() -> None:
        matrix[0].add_(0)

    heavy()
    clock.start()
    clock.spanned(A, heavy)()
    clock.spanned(B, light)()
    block = clock.stop(1)
    assert block.amounts[A] > 10 * block.amounts[B] > 0

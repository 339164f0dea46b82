"""The stand-in for CUDA graphs does what they do: planted faults are found, and recording does nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tape import Tape


def test_a_recording_is_not_done_and_a_replay_is() -> None:
    counter, values = torch.zeros(3), torch.ones(3)

    def work() -> Tensor:
        counter.add_(values)
        return counter * 2

    replay, found = Tape().capture(work)
    assert counter.tolist() == [0.0, 0.0, 0.0]
    replay()
    replay()
    assert counter.tolist() == [2.0, 2.0, 2.0]
    assert found.tolist() == [4.0, 4.0, 4.0]


def test_inputs_are_read_anew_and_python_is_not() -> None:
    source, factors = torch.ones(2), iter([2.0, 3.0, 4.0])
    replay, found = Tape().capture(lambda: source.view(1, 2).t().exp() * next(factors))
    source.fill_(2.0)
    replay()
    assert torch.equal(found, torch.full((2, 1), 2.0).exp() * 2.0)


def test_random_numbers_go_on() -> None:
    torch.manual_seed(0)
    replay, found = Tape().capture(lambda: torch.rand(3))
    drawn = []
    for _ in range(2):
        replay()
        drawn.append(found.clone())
    torch.manual_seed(0)
    assert torch.equal(torch.stack(drawn), torch.stack([torch.rand(3), torch.rand(3)]))


def test_a_training_step_with_running_statistics_is_repeated_to_the_bit() -> None:
    def trained(recorded: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        x = torch.randn(8, 3)

        def step() -> Tensor:
            for parameter in model.parameters():
                parameter.grad = None
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        step()
        take: Callable[[], object] = Tape().capture(step)[0] if recorded else step
        for _ in range(5):
            take()
        return [value.clone() for value in model.state_dict().values()]

    assert all(map(torch.equal, trained(recorded=True), trained(recorded=False)))


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: float(x.sum()),
        lambda x: 1 if x.sum() > 0 else 0,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_a_capture_refuses_is_refused(fault: Callable[[Tensor], object]) -> None:
    values = torch.ones(3)
    for attempt in (Tape().rehearse, Tape().capture):
        with pytest.raises(RuntimeError, match="synchronizing"):
            attempt(lambda: fault(values.mul_(2)))
    assert values.tolist() == [2.0, 2.0, 2.0]  # the rehearsal did its part, the recording nothing


def test_a_form_changed_in_place_is_kept_as_it_was() -> None:
    def work() -> Tensor:
        made = torch.arange(6.0).view(2, 3) + source
        made.transpose_(0, 1)
        return made.reshape(-1)

    source = torch.zeros(1)
    expected = work() + 1
    replay, found = Tape().capture(work)
    source.fill_(1.0)
    replay()
    replay()
    assert torch.equal(found, expected)

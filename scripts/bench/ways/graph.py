"""A CUDA graph tuned by hand: several steps in one replay, batches picked on the device.

The permutation of an epoch lies on the device beside a counter of the batches done, so that nothing changes between
replays but numbers in memory. Warming up and capturing are left out of the time; what warming up did to the weights and
to the optimizer is undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from work import LOG_EVERY, Clock, Trained, Work

MOST_STEPS = 16  # of one replay
WARM_UP = 3


class Stepper:
    """Training steps that read nothing but tensors that stay where they are."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.x, self.y = work.tensors()
        self.model = work.network().train()
        capturable = {"capturable": True} if work.case.optimizer == "adam" and work.device.type == "cuda" else {}
        self.optimizers = work.optimizers(self.model, **capturable)
        self.step = work.kind.step(self.model, self.optimizers)
        self.order = torch.zeros(work.steps_per_epoch, work.batch, dtype=torch.int64, device=work.device)
        self.place = torch.zeros(1, dtype=torch.int64, device=work.device)
        self.loss = torch.zeros((), device=work.device)

    def once(self) -> None:
        """The step of the next batch of the epoch."""
        rows = self.order.index_select(0, self.place).squeeze(0)
        self.place.add_(1)
        inputs = self.x.index_select(0, rows)
        self.loss.copy_(self.step(inputs, inputs if self.work.itself else self.y.index_select(0, rows)).detach())

    def new_epoch(self) -> None:
        """Another order, from its first batch."""
        self.order.copy_(torch.randperm(len(self.x), device=self.work.device).view_as(self.order))
        self.place.zero_()

    @torch.no_grad()
    def undo(self, weights: dict[str, Tensor]) -> None:
        """Weights and optimizers as they were before the first step, in the same memory."""
        self.model.load_state_dict(weights)
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()


def steps_of_a_replay(steps_per_epoch: int) -> int:
    """The most that an epoch is a whole number of."""
    return next(k for k in range(min(MOST_STEPS, steps_per_epoch), 0, -1) if steps_per_epoch % k == 0)


def captured(stepper: Stepper, steps: int) -> Callable[[], Any]:
    """The graph of so many steps, ready to be replayed."""
    weights = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            stepper.place.zero_()
            stepper.once()
    torch.cuda.current_stream().wait_stream(side)
    for optimizer in stepper.optimizers:
        optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(steps):
            stepper.once()
    stepper.undo(weights)
    return graph.replay


def train(work: Work, clock: Clock, capture: Callable[[Stepper, int], Callable[[], Any]] = captured) -> Trained:
    stepper = Stepper(work)
    several = steps_of_a_replay(work.steps_per_epoch)
    stepper.new_epoch()
    replay = capture(stepper, several)
    done, losses = 0, []
    clock.start()
    for _ in range(work.epochs):
        stepper.new_epoch()
        for _ in range(work.steps_per_epoch // several):
            replay()
            done += several
            if done // LOG_EVERY > (done - several) // LOG_EVERY:
                losses.append(stepper.loss.item())
                clock.late(done)
    clock.stop()
    return Trained(stepper.model, done)

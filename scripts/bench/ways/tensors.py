"""A hand-written loop over tensors on the device: the strictest comparison.

Everything lies on the device; an epoch is one permutation, cut into batches of indices; the optimizer is fused; the
loss is read as seldom as dlrun reads it.
"""

from __future__ import annotations

import torch
from work import LOG_EVERY, Clock, Trained, Work


def train(work: Work, clock: Clock) -> Trained:
    x, y = work.tensors()
    model = work.network().train()
    step, steps, losses = work.step(model), 0, []
    clock.start()
    for _ in range(work.epochs):
        for rows in torch.randperm(len(x), device=work.device).split(work.batch):
            inputs = x.index_select(0, rows)
            loss = step(inputs, inputs if work.itself else y.index_select(0, rows))
            steps += 1
            if steps % LOG_EVERY == 0:
                losses.append(loss.item())
                clock.late(steps)
    clock.stop()
    return Trained(model, steps)

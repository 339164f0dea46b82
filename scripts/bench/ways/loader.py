"""A hand-written loop as most people write it: torchvision's data set with ToTensor in a DataLoader.

Texts are a TensorDataset of windows. One process reads and trains, as the DataLoader does by default; the optimizer is
fused, so that the batches alone are what differs from the loop over tensors.
"""

from __future__ import annotations

from work import LOG_EVERY, Clock, Trained, Work


def train(work: Work, clock: Clock) -> Trained:
    loader = work.loader()
    model = work.network().train()
    step, steps, losses = work.step(model), 0, []
    clock.start()
    for _ in range(work.epochs):
        for x, y in loader:
            x, y = x.to(work.device), y.to(work.device)
            loss = step(x, y)
            steps += 1
            if steps % LOG_EVERY == 0:
                losses.append(loss.item())
                clock.late(steps)
    clock.stop()
    return Trained(model, steps)

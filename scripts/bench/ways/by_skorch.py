"""skorch: ``NeuralNetClassifier`` (``NeuralNet`` where the outputs are no class scores) with its defaults.

Its log is printed; nothing is held out; the DataLoader is its own, shuffled. The time is from the start of the first
epoch to the end of the last.
"""

from __future__ import annotations

from typing import Any

from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Callback
from torch import Tensor, nn
from work import Clock, Trained, Work


class Criterion(nn.Module):
    """The case's loss as the module that skorch asks for."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets -> 0-d."""
        return self.loss(outputs, targets)


class Timer(Callback):
    """Starts and stops the clock."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        self.clock, self.epochs, self.begun = clock, epochs, 0

    def on_epoch_begin(self, net: Any, **more: Any) -> None:
        """Before the first batch is asked for."""
        self.begun += 1
        if self.begun == 1:
            self.clock.start()

    def on_epoch_end(self, net: Any, **more: Any) -> None:
        """After the last step."""
        if self.begun == self.epochs:
            self.clock.stop()


def train(work: Work, clock: Clock) -> Trained:
    network = work.network()
    net = (NeuralNetClassifier if work.kind.classes and work.case.source == "images" else NeuralNet)(
        network,
        criterion=Criterion,
        criterion__loss=work.kind.loss,  # type: ignore[attr-defined]
        optimizer=lambda parameters, **more: work.optimizer(more.pop("params", parameters)),
        max_epochs=work.epochs,
        batch_size=work.batch,
        iterator_train__shuffle=True,
        train_split=None,
        device=work.device.type,
        callbacks=[Timer(clock, work.epochs)],
    )
    net.fit(work.dataset(), y=None)
    return Trained(net.module_, sum(len(epoch["batches"]) for epoch in net.history))

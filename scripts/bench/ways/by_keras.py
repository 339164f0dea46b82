"""Keras 3 on torch: ``compile`` and ``fit`` over the DataLoader, the network in a ``TorchModuleWrapper``.

The optimizer is Keras's own of the same rule; no metrics but the loss. The time is from the start of the first epoch to
the end of the last.
"""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
from work import Clock, Trained, Work


class Timer(keras.callbacks.Callback):
    """Starts and stops the clock."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        super().__init__()
        self.clock, self.epochs = clock, epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the first batch is asked for."""
        if epoch == 0:
            self.clock.start()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """After the last step."""
        if epoch == self.epochs - 1:
            self.clock.stop()


class Model(keras.Model):
    """A torch network as Keras's own guide wraps one."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = keras.layers.TorchModuleWrapper(network)

    def call(self, x: Any) -> Any:
        """The network."""
        return self.network(x)


def train(work: Work, clock: Clock) -> Trained:
    network = work.network()
    model = Model(network)
    if work.case.optimizer == "adam":
        optimizer = keras.optimizers.Adam(work.case.rate, epsilon=1e-8)
    else:
        optimizer = keras.optimizers.SGD(work.case.rate, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if work.kind.classes else "mse"
    model.compile(optimizer=optimizer, loss=loss)
    model.fit(work.loader(), epochs=work.epochs, callbacks=[Timer(clock, work.epochs)])
    return Trained(network, int(optimizer.iterations))

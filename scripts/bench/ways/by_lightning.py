"""Lightning, with its Trainer's defaults: progress bar, logger and checkpoint at the end of each epoch.

The module logs its loss by ``self.log``, as its users write it. The time is from the start of the first epoch to the
end of the last, without setting up and without the last checkpoint.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor
from work import Clock, Trained, Work


class Supervised(L.LightningModule):
    """One network, one loss."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.model, self.loss, self.work = work.network(), work.kind.loss, work  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """The network."""
        return self.model(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Loss of a batch."""
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """The case's optimizer."""
        return self.work.optimizer(self.model.parameters())


class Adversarial(L.LightningModule):
    """Two networks by manual optimization, as Lightning's own GAN example has it."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.work = work.network(), work

    def training_step(self, batch: Any, index: int) -> None:
        """A step of the discriminator, one of the generator."""
        from torch.nn.functional import softplus

        x, _ = batch
        model = self.model
        to_generate, to_tell = self.optimizers()
        self.toggle_optimizer(to_tell)
        fake = model.generator(model.noise(len(x))).detach()
        told = softplus(-model.discriminator(x)).mean() + softplus(model.discriminator(fake)).mean()
        self.log("discriminator", told)
        to_tell.zero_grad()
        self.manual_backward(told)
        to_tell.step()
        self.untoggle_optimizer(to_tell)
        self.toggle_optimizer(to_generate)
        loss = softplus(-model.discriminator(model.generator(model.noise(len(x))))).mean()
        self.log("generator", loss)
        to_generate.zero_grad()
        self.manual_backward(loss)
        to_generate.step()
        self.untoggle_optimizer(to_generate)

    def configure_optimizers(self) -> Any:
        """One for each network."""
        return self.work.optimizers(self.model)


class Timer(L.Callback):
    """Starts and stops the clock; it comes before the checkpoint, which Lightning puts last."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        self.clock, self.epochs, self.steps = clock, epochs, 0

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before the first batch is asked for."""
        if trainer.current_epoch == 0:
            self.clock.start()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """After the last step."""
        self.steps = trainer.fit_loop.total_batch_idx + 1
        if trainer.current_epoch == self.epochs - 1:
            self.clock.stop()


def train(work: Work, clock: Clock) -> Trained:
    module = (Supervised if work.kind.supervised else Adversarial)(work)
    timer = Timer(clock, work.epochs)
    trainer = L.Trainer(
        max_epochs=work.epochs,
        accelerator="gpu" if work.device.type == "cuda" else "cpu",
        devices=1,
        default_root_dir=work.scratch / "lightning",
        callbacks=[timer],
    )
    trainer.fit(module, work.loader())
    return Trained(module.model, timer.steps)

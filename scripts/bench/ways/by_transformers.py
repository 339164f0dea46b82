"""The Trainer of Hugging Face: a module that returns its loss, examples as dictionaries, TrainingArguments' defaults.

Not default are the constant rate and no clipping, so that the work is the same, the case's optimizer, and that columns
it does not know are kept. The time is from the start of the first epoch to the end of the last.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from work import Clock, Trained, Work


class WithLoss(nn.Module):
    """A network that returns its loss beside its outputs, as the Trainer wants it."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.model, self.loss = work.network(), work.kind.loss  # type: ignore[attr-defined]

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Inputs and targets -> loss and outputs."""
        outputs = self.model(x)
        return {"loss": self.loss(outputs, labels), "logits": outputs}


class Named(Dataset[Any]):
    """Examples as dictionaries."""

    def __init__(self, pairs: Dataset[Any]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, y = self.pairs[index]
        return {"x": x, "labels": y}


class Timer(TrainerCallback):
    """Starts and stops the clock."""

    def __init__(self, clock: Clock, steps: int) -> None:
        self.clock, self.steps, self.started = clock, steps, False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Before the first batch is asked for."""
        if not self.started:
            self.started = True
            self.clock.start()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """After the last step."""
        if state.global_step == self.steps:
            self.clock.stop()


def train(work: Work, clock: Clock) -> Trained:
    model = WithLoss(work)
    optimizer = work.optimizer(model.parameters())
    arguments = TrainingArguments(
        output_dir=str(work.scratch / "transformers"),
        num_train_epochs=work.epochs,
        per_device_train_batch_size=work.batch,
        use_cpu=work.device.type == "cpu",
        max_grad_norm=0.0,
        remove_unused_columns=False,
        seed=work.job["seed"],
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Named(work.dataset()),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
        callbacks=[Timer(clock, work.steps)],
    )
    trainer.train()
    return Trained(model.model, trainer.state.global_step)

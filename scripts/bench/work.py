"""What a way is given: one case's examples, network, optimizers and step, and the clock it is timed by."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cases import Case, case_of
from kinds import Step
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

LOG_EVERY = 100  # steps between readings of the loss: dlrun's default


@dataclass
class Trained:
    """What a way gives back: the network, the steps it says it did, and what else it counted."""

    model: nn.Module
    steps: int
    details: dict[str, float] = field(default_factory=dict)


class Clock:
    """Seconds of a training loop: from just before the first batch is asked for to the end of the last step's work.

    Waits for the device at both ends. ``late`` may be told once that so many steps are done and read: what comes after
    is free of warming up and of capturing graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.late_steps, self.late_seconds = 0, 0.0
        self._started = self._late = 0.0

    def now(self) -> float:
        """The time once the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self) -> None:
        """Collect garbage, so that each way pays for its own alone; then start."""
        gc.collect()
        self._started = self.now()

    def late(self, steps: int) -> None:
        """So many steps are done; the first call counts."""
        if not self.late_steps:
            self.late_steps, self._late = steps, self.now()

    def stop(self) -> None:
        """All steps are done."""
        self.stop_at(self.now())

    def stop_at(self, moment: float) -> None:
        """All steps were done then."""
        self.seconds = moment - self._started
        self.late_seconds = moment - self._late if self.late_steps else 0.0


class Work:
    """One case in one process.

    Args:
        job: what ``running.job_of`` makes.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.case: Case = case_of(job["case"])
        self.kind = self.case.kind
        self.device = torch.device(job["device"])
        self.batch, self.epochs, self.steps_per_epoch = self.case.batch, job["epochs"], job["steps_per_epoch"]
        self.steps = self.epochs * self.steps_per_epoch
        self.scratch = Path(job["scratch"])
        self._data: dict[str, Any] = torch.load(job["data"], mmap=True)

    @property
    def itself(self) -> bool:
        """Whether the input is the target."""
        return self.kind.supervised and not self.kind.classes

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All training examples on the device: inputs, targets."""
        return self._data["x"].to(self.device, copy=True), self._data["y"].to(self.device, copy=True)

    def dataset(self) -> Dataset[Any]:
        """The same examples as people have them: torchvision's data set with ToTensor, or tensors of windows."""
        if self.case.source == "text":
            return TensorDataset(self._data["x"].clone(), self._data["y"].clone())
        from torchvision import transforms
        from torchvision.datasets import FashionMNIST

        steps: list[Any] = [transforms.ToTensor()]
        if self.case.pixels == "symmetric":
            steps.append(transforms.Normalize((0.5,), (0.5,)))
        whole = FashionMNIST(self.job["images"], train=True, transform=transforms.Compose(steps))
        part = Subset(whole, self._data["rows"])
        return Itself(part) if self.itself else part

    def loader(self) -> Iterable[Any]:
        """The same in a DataLoader, shuffled, read in this process."""
        return DataLoader(self.dataset(), batch_size=self.batch, shuffle=True)

    def network(self) -> Any:
        """The network from the job's seed, on the device; a Boltzmann machine's biases start at the data's means."""
        torch.manual_seed(self.job["seed"])
        model = self.case.network(self._data["vocabulary"])
        if hasattr(model, "prepare"):
            model.prepare(lambda: [(self._data["x"], self._data["y"])])
        return model.to(self.device)

    def optimizer(self, parameters: Iterable[nn.Parameter], **more: Any) -> Optimizer:
        """The case's optimizer, fused."""
        if self.case.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.case.rate, fused=True, **more)
        return torch.optim.SGD(parameters, lr=self.case.rate, momentum=0.9, fused=True)

    def optimizers(self, model: Any, **more: Any) -> list[Optimizer]:
        """One for each network of the model."""
        return [self.optimizer(part.parameters(), **more) for part in self.kind.modules(model)]

    def step(self, model: Any) -> Step:
        """The case's training step with its optimizers."""
        return self.kind.step(model, self.optimizers(model))

    @torch.no_grad()
    def metric(self, model: Any) -> float:
        """The case's metric on the held-out examples."""
        torch.manual_seed(0)
        x, y = self._data["val_x"].to(self.device), self._data["val_y"].to(self.device)
        return float(self.kind.measure(model, x, x if self.itself else y))


class Itself(Dataset[Any]):
    """Examples whose target is the input."""

    def __init__(self, part: Dataset[Any]) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, _ = self.part[index]
        return x, x

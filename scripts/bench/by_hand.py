"""The loops that overhead.py compares dlrun with, as people write them, and the data and networks they train."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHAPE, CLASSES, HELD_OUT, LOG_EVERY, LOADER_EVALUATION_BATCH = (1, 28, 28), 10, 6000, 50, 1000
Pairs = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """One network, optimizer and batch size, for dlrun and for the loops."""

    name: str
    batch_size: int
    overrides: tuple[str, ...]
    network: Callable[[], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]


def mlp() -> nn.Module:
    from dlrun.models.mlp import MLP

    return MLP(SHAPE, CLASSES, nn.ReLU, hidden=[128])


def lenet5() -> nn.Module:
    from dlrun.models.lenet5 import LeNet5

    return LeNet5(SHAPE, CLASSES, nn.Tanh)


def adam(parameters: Iterable[nn.Parameter], **more: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, **more)


def momentum(parameters: Iterable[nn.Parameter], **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, **more)


MLP = ("model=mlp", "model.hidden=[128]", "optimizer=adam", "optimizer.lr=1e-3")
LENET5 = ("model=lenet5", "activation=tanh", "optimizer=momentum", "optimizer.lr=0.05")
CASES = (
    Case("MLP 784-128-10, Adam, batch 32", 32, MLP, mlp, adam),
    Case("MLP 784-128-10, Adam, batch 128", 128, MLP, mlp, adam),
    Case("LeNet-5, momentum, batch 128", 128, LENET5, lenet5, momentum),
)


@dataclass(frozen=True)
class Measured:
    """One run of one way."""

    seconds: float
    steps: int
    accuracy: float
    parameters: int
    whole_seconds: float  # with what comes before and after: building, reading the data, testing, the closing pictures

    @property
    def microseconds(self) -> float:
        """Of one step, the evaluations shared out over the steps."""
        return self.seconds / self.steps * 1e6


def read_idx(path: Path) -> Tensor:
    with gzip.open(path) as file:
        data = bytearray(file.read())
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * len(sizes)).view(sizes)


class Data:
    """Fashion-MNIST's training part, as ready tensors and as torchvision's dataset."""

    def __init__(self, root: Path, scratch: Path, device: torch.device) -> None:
        raw = root / "FashionMNIST" / "raw"
        images = read_idx(raw / "train-images-idx3-ubyte.gz").unsqueeze(1)
        labels = read_idx(raw / "train-labels-idx1-ubyte.gz").long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.train_indices, self.val_indices = order[HELD_OUT:].tolist(), order[:HELD_OUT].tolist()
        floats = images.float() / 255
        mean, std = floats[order[HELD_OUT:]].mean(), floats[order[HELD_OUT:]].std()
        floats = ((floats - mean) / std).to(device)
        order, labels = order.to(device), labels.to(device)
        self.train = floats[order[HELD_OUT:]], labels[order[HELD_OUT:]]
        self.val = floats[order[:HELD_OUT]], labels[order[:HELD_OUT]]
        # torchvision unpacks the archives where they lie: give it copies; with all four there it fetches nothing.
        copy = scratch / "FashionMNIST" / "raw"
        copy.mkdir(parents=True)
        for path in raw.glob("*.gz"):
            shutil.copy(path, copy)
        self.torchvision_root = scratch


def evaluate(model: nn.Module, batches: Pairs) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    with torch.no_grad():
        pairs = [(model(x), y) for x, y in batches]
        scores, targets = torch.cat([s for s, _ in pairs]), torch.cat([y for _, y in pairs])
        loss = nn.functional.cross_entropy(scores, targets).item()
        accuracy = (scores.argmax(1) == targets).double().mean().item()
    model.train()
    return loss, accuracy


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, train: Pairs, val: Pairs) -> Measured:
    """The training loop of the tutorials, timed from before the first evaluation to after the last."""
    start = time.perf_counter()
    losses, steps = [], 0
    evaluate(model, val)
    for x, y in train:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % LOG_EVERY == 0:
            losses.append(loss.item())
    _, accuracy = evaluate(model, val)
    seconds = time.perf_counter() - start
    return Measured(seconds, steps, accuracy, sum(p.numel() for p in model.parameters()), seconds)


class Shuffled:
    """Batches of tensors in a new order each pass."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int) -> None:
        self.x, self.y, self.batch_size = x, y, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in torch.randperm(len(self.x), device=self.x.device).split(self.batch_size):
            yield self.x[indices], self.y[indices]


def tensors(case: Case, data: Data, seed: int) -> Measured:
    torch.manual_seed(seed)
    x, y = data.train
    model = case.network().to(x.device)
    val = list(zip(data.val[0].split(case.batch_size), data.val[1].split(case.batch_size), strict=True))
    return loop(model, case.optimizer(model.parameters(), fused=True), Shuffled(x, y, case.batch_size), val)


def loader(case: Case, data: Data, seed: int) -> Measured:
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets import FashionMNIST

    torch.manual_seed(seed)
    device = data.train[0].device
    whole = FashionMNIST(data.torchvision_root, train=True, download=True, transform=transforms.ToTensor())
    train = DataLoader(Subset(whole, data.train_indices), batch_size=case.batch_size, shuffle=True)
    val = DataLoader(Subset(whole, data.val_indices), batch_size=LOADER_EVALUATION_BATCH)
    model = case.network().to(device)
    return loop(model, case.optimizer(model.parameters()), _Moved(train, device), _Moved(val, device))


class _Moved:
    def __init__(self, batches: Pairs, device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.to(self.device), y.to(self.device)) for x, y in self.batches)

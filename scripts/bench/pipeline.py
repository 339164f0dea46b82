"""The data path alone, images per second: resident data beside DataLoaders, and folders of pictures that stream.

Resident: pictures of 3 x 32 x 32 like CIFAR's (random bytes: what is in them costs nothing), crop with 4 pixels of
padding and left-right flip, standardised, batches of 128. Streamed: a folder of JPEG files of 256 x 256, brought to
64 x 64, batches of 64. Nothing is trained; on a GPU the batches arrive there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from machine import context, cores
from running import spread
from tables import cell, page, rows_of, write
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

MEAN, STD, BATCH = (0.5, 0.5, 0.5), (0.29, 0.29, 0.29), 128
SIDE, STREAMED_BATCH = 64, 64
TARGET = 40, 1000  # times the DataLoader with PIL: on the CPU, on an H200
SAID = (__doc__ or "").split("\n", 2)[2].strip().replace("\n", " ")
Batches = Callable[[], Iterable[Any]]


class Pictures(Dataset[Any]):
    """Pictures in memory as PIL images with torchvision's transforms: how CIFAR comes to its users."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        from torchvision import transforms

        self.pixels, self.labels = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def resident(pixels: Tensor, labels: Tensor, device: torch.device) -> dict[str, Batches]:
    """dlrun's resident path with augmentation, and loaders of the same pictures; by name."""
    from dlrun.data import Examples
    from dlrun.data.augment import Augment
    from dlrun.data.batches import Batches as Resident
    from dlrun.data.images import ImagePreprocess

    part = Resident(
        Examples(pixels, labels), preprocess=ImagePreprocess.fit(pixels[:1000]), batch_size=BATCH, device=device,
        seed=0, augment=Augment(crop=4, flip=True),
    )  # fmt: skip
    epochs = count()
    pictures = Pictures(pixels, labels)
    ready = TensorDataset((pixels.float() / 255 - 0.5) / 0.29, labels)

    def moved(loader: DataLoader[Any]) -> Iterator[Any]:
        return ([part.to(device) for part in batch] for batch in loader)

    loaders = {
        "DataLoader, PIL transforms": partial(DataLoader, pictures),
        "DataLoader, PIL transforms, 2 workers": partial(DataLoader, pictures, num_workers=2),
        "DataLoader, tensors, no augmentation": partial(DataLoader, ready),
    }
    found: dict[str, Batches] = {"dlrun, resident": lambda: part.epoch(next(epochs))}
    for name, make in loaders.items():
        found[name] = lambda make=make: moved(make(batch_size=BATCH, shuffle=True))  # type: ignore[misc]
    return found


def streamed(folder: Path, device: torch.device) -> dict[str, Batches]:
    """dlrun's streaming folder and torchvision's ImageFolder in a DataLoader, with 0, 1 and 2 workers; by name."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from dlrun.build import check
    from dlrun.config import compose
    from dlrun.loading import load

    steps = [transforms.Resize((SIDE, SIDE)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    pictures = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    epochs = count()
    found: dict[str, Batches] = {}
    for workers in (0, 1, 2):
        words = [
            "data=image_folder", f"data.path={folder}", f"data.size={SIDE}", "data.memory=0.00001", "model=cnn",
            f"trainer.batch_size={STREAMED_BATCH}", f"trainer.workers={workers}", f"trainer.device={device.type}",
        ]  # fmt: skip
        train = load(check(compose(words))).train
        loader = partial(DataLoader, pictures, STREAMED_BATCH, shuffle=True, num_workers=workers)
        found[f"dlrun, streamed, {workers} workers"] = lambda train=train: train.epoch(next(epochs))  # type: ignore[misc]
        found[f"DataLoader, ImageFolder, {workers} workers"] = lambda loader=loader: (  # type: ignore[misc]
            [part.to(device) for part in batch] for batch in loader()
        )
    return found


def write_folder(folder: Path, images: int) -> None:
    """A train, val and test folder of two classes of JPEG files, smooth enough to be of a photograph's size."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for part, number in (("train", images), ("val", 4), ("test", 4)):
        for index in range(number):
            small = torch.rand(1, 3, 32, 32, generator=generator)
            large = torch.nn.functional.interpolate(small, size=(256, 256), mode="bilinear")[0]
            path = folder / part / ("one" if index % 2 else "two") / f"{index:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(large.mul(255).byte().permute(1, 2, 0).numpy()).save(path)


def images_per_second(batches: Batches, limit: float, device: torch.device) -> float:
    """The speed over whole passes, as many as begin within ``limit`` seconds; starting workers is a part of it."""
    started, seen = time.perf_counter(), 0
    while time.perf_counter() - started < limit or not seen:
        for inputs, _ in batches():
            seen += len(inputs)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return seen / (time.perf_counter() - started)


def take_turns(ways: dict[str, Batches], repeats: int, limit: float, device: torch.device) -> dict[str, list[float]]:
    """Every way once per repeat, in turning order, after one pass that does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            speed = images_per_second(ways[name], limit if repeat >= 0 else 0.0, device)
            print(f"  {name}: {speed:,.0f} images/s", file=sys.stderr)
            if repeat >= 0:
                found[name].append(speed)
    return found


def measure(options: argparse.Namespace) -> Path:
    """Measure, write; the table's path."""
    from dlrun.training.heap import keep_freed_memory

    device = torch.device(options.device)
    keep_freed_memory()  # as dlrun train does; the loaders of this process gain from it too
    if options.threads:
        torch.set_num_threads(options.threads)
    where = context(device, options.threads or cores(), options.repeats)
    held, files, limit = (256, 96, 0.01) if options.quick else (10_000, 600, 2.0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (held, 3, 32, 32), dtype=torch.uint8, generator=generator)
    found = take_turns(resident(pixels, torch.arange(held) % 10, device), options.repeats, limit, device)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), files)
        found |= take_turns(streamed(Path(folder), device), options.repeats, limit, device)
    rows = []
    for name, speeds in found.items():
        mine = next(way for way in found if way.startswith(f"dlrun, {'streamed' if 'Folder' in name else 'resident'}"))
        if name.startswith("DataLoader, ImageFolder"):
            mine = f"dlrun, streamed, {name.split(', ')[-1]}"
        over = [a / b for a, b in zip(found[mine], speeds, strict=True)] if name.startswith("DataLoader") else []
        target = f"{TARGET[device.type == 'cuda']:,}" if name == "DataLoader, PIL transforms" else ""
        rows.append([name, cell(spread(speeds)), cell(spread(over), 2) if over else "", target])
    head = ["way", "images per second", "dlrun over it", "target"]
    return write(options.results, "data", where, found, page("The data path", where, [SAID], rows_of(head, rows)))

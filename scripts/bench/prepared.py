"""The data of a case, read once by dlrun itself, and laid down so that every way trains on the same examples."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import torch
from cases import CONTEXT, Case
from torch import Tensor

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
HELD_OUT = 500


def unpacked(root: Path, scratch: Path) -> tuple[Path, Path | None, str]:
    """Folder of Fashion-MNIST unpacked as torchvision wants it, the text's path, and in words where they are from.

    Without the real files the images are made up, and the text is the one that dlrun has without a path.
    """
    there = root / "FashionMNIST" / "raw"
    raw = scratch / "images" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    real = all((there / f"{name}-ubyte.gz").is_file() for name in FILES)
    for name in FILES:
        archive = there / f"{name}-ubyte.gz"
        (raw / f"{name}-ubyte").write_bytes(gzip.decompress(archive.read_bytes()) if real else _made_up(name))
    text = root / "tinyshakespeare" / "input.txt"
    words = "Fashion-MNIST" if real else "made-up images"
    words += " and tiny Shakespeare" if text.is_file() else " and Python's own text"
    return scratch / "images", text.resolve() if text.is_file() else None, words


def _made_up(name: str) -> bytes:
    """An idx file of the right size: blurred noise, brighter at another place for each of the ten classes."""
    count = 60_000 if name.startswith("train") else 10_000
    labels = torch.arange(count) % 10
    if "labels" in name:
        values = labels.to(torch.uint8)
    else:
        noise = torch.randint(0, 128, (100, 28, 28), generator=torch.Generator().manual_seed(0))
        for index in range(100):
            place = 2 * (index % 10)
            noise[index, place : place + 8, place : place + 8] += 127
        values = noise.to(torch.uint8)[torch.arange(count) % 100]
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes((0, 0, 8, values.dim())) + sizes + values.numpy().tobytes()


def words_for(case: Case, images: Path, text: Path | None) -> list[str]:
    """What ``dlrun train`` is told of a case, without its length, seed and device."""
    if case.source == "text":
        data = ["data=text", f"data.path={text if text else 'null'}", f"data.context={CONTEXT}"]
    else:
        data = ["data=fashion_mnist", f"data.root={images}", "data.download=false", f"data.pixels={case.pixels}"]
    model = next(word for word in case.words if word.startswith("model="))
    rest = [word for word in case.words if word != model]
    optimizer = [f"optimizer={case.optimizer}", f"optimizer.lr={case.rate}"]
    return [*data, model, *rest, *optimizer, f"trainer.batch_size={case.batch}", "precision=fp32"]


def limits(examples: int) -> list[str]:
    """The part of the data that is trained on, and little of the others: evaluating is not what is measured."""
    return [f"trainer.limit.train={examples}", f"trainer.limit.val={HELD_OUT}", f"trainer.limit.test={HELD_OUT}"]


def prepare(case: Case, words: list[str], examples: int, images: Path, folder: Path) -> Path:
    """Write a case's examples as dlrun's training sees them, held-out ones, and the training rows in the files.

    Returns:
        a file of ``x``, ``y``, ``val_x``, ``val_y``, ``rows`` (None for a text) and ``vocabulary``.
    """
    path = folder / f"{case.slug}.pt"
    from dlrun.build import check
    from dlrun.config import compose
    from dlrun.loading import load

    loaded = load(check(compose([*words, *limits(examples), "trainer.device=cpu"])))
    assert loaded.val is not None, "every case holds something out"
    x, y = whole(loaded.train)
    val_x, val_y = whole(loaded.val)
    rows = None if case.source == "text" else rows_of(x, images, case.pixels)
    found = {"x": x, "y": y, "val_x": val_x, "val_y": val_y, "rows": rows}
    torch.save(found | {"vocabulary": loaded.splits.facts.vocabulary}, path)
    return path


def whole(batches: Any) -> tuple[Tensor, Tensor]:
    """All examples of a part in order."""
    pairs = list(batches.in_order())
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def rows_of(x: Tensor, images: Path, pixels: str) -> list[int]:
    """Where in the training file the images (N, 1, 28, 28) stand, found by their pixels."""
    raw = (images / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    at = {raw[place : place + 784]: place // 784 for place in range(0, len(raw), 784)}
    grey = (x if pixels == "unit" else (x + 1) / 2).mul(255).round().to(torch.uint8)
    return [at[image.numpy().tobytes()] for image in grey]

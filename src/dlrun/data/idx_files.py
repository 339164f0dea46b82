"""MNIST, Fashion-MNIST and Kuzushiji-MNIST from their idx files, plain or gzipped, in torchvision's folder layout.

Sources: LeCun, Cortes, Burges (MNIST, with the idx format); Xiao et al. 2017 (arXiv:1708.07747); Clanuwat et al. 2018
(arXiv:1812.01718).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrun.data import Splits
from dlrun.data.augment import build_augment
from dlrun.data.facts import Facts
from dlrun.data.image_sets import Known, data_root, fetch, missing
from dlrun.data.pixels import chosen_range
from dlrun.errors import ConfigError, DataError, did_you_mean

SHAPE = (1, 28, 28)
DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

SETS = {
    "mnist": Known("MNIST/raw", SHAPE, DIGITS, 60000, 10000),
    "fashion_mnist": Known("FashionMNIST/raw", SHAPE, CLOTHES, 60000, 10000),
    "kmnist": Known("KMNIST/raw", SHAPE, KANA, 60000, 10000),
}
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class IdxImages:
    """One of the MNIST family: 28 x 28 grey images of ten classes.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        root: folder that holds ``MNIST/raw`` and its like; null means ``$DLRUN_DATA`` or ``~/.cache/dlrun/data``.
        download: fetch missing files into ``root``.
        val: share of the training part held out for validation.
        seed: of the split.
        augment: ``{crop, flip, erase}`` for training batches.
        pixels: the range the network sees: ``standard``, ``unit``, ``symmetric``, ``binary``; auto: the task's.
        wanted_pixels: the range that the task wants.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str | None = None,
        download: bool = True,
        val: float = 0.1,
        seed: int = 0,
        augment: Mapping[str, Any] | None = None,
        pixels: str = "auto",
        wanted_pixels: str = "standard",
    ) -> None:
        if name not in SETS:
            raise ConfigError(f"there is no idx data set '{name}'{did_you_mean(name, SETS)}")
        self.name, self.root, self.download, self.val, self.seed = name, root, download, val, seed
        self.augment = build_augment(augment)
        self.pixels = chosen_range(pixels, wanted_pixels)

    def facts(self) -> Facts:
        """Facts known by name; reads nothing."""
        return SETS[self.name].facts(self.name, self.val, self.pixels)

    def load(self) -> Splits:
        """Read the four files, after fetching them where they are missing.

        Raises:
            DataError: a file is missing and cannot be fetched, or is damaged.
        """
        known = SETS[self.name]
        folder = data_root(self.root) / known.folder
        self._fetch_missing(folder)
        arrays = {}
        for part, (images, labels) in FILES.items():
            pixels = read_idx(_find(folder, images) or folder / images, 3)
            arrays[part] = pixels[:, np.newaxis], read_idx(_find(folder, labels) or folder / labels, 1).astype(np.int64)
        return known.splits(self.name, arrays["train"], arrays["test"], self.val, self.seed, self.pixels)

    def _fetch_missing(self, folder: Path) -> None:
        """Download what is not there; raise DataError naming the first missing file when that cannot be."""
        lacking = _first_missing(folder)
        if lacking is None:
            return
        why = fetch(self._download) if self.download else "data.download is false"
        lacking = _first_missing(folder)
        if lacking is not None:
            why = why or "the download did not bring it"
            raise missing(self.name, f"{lacking}[.gz]", folder, SETS[self.name].folder, why)

    def _download(self) -> None:
        from torchvision import datasets

        class_name = SETS[self.name].folder.split("/")[0]
        getattr(datasets, class_name)(str(data_root(self.root)), download=True)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or gzipped by its name.

    The format: two zero bytes, a type code (8), the number of dimensions, each size as a big-endian 32-bit word, data.

    Raises:
        DataError: the file is missing, truncated, longer than its header says, or no such idx file.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read: {error}.") from error
    if raw[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(
            f"{path} is no idx file of {dimensions} dimension(s) of bytes: it begins with 0x{raw[:4].hex()}."
        )
    header = 4 + 4 * dimensions
    sizes = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4)]
    expected = header + int(np.prod(sizes, dtype=object))
    if len(raw) != expected:
        raise DataError(f"{path} is damaged: it holds {len(raw)} bytes where its header promises {expected}.")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(sizes).copy()


def _find(folder: Path, name: str) -> Path | None:
    """The plain file, else the gzipped one, else None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _first_missing(folder: Path) -> str | None:
    return next((name for names in FILES.values() for name in names if _find(folder, name) is None), None)

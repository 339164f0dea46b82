"""CIFAR-10, CIFAR-100 and SVHN, read by torchvision, which checks the files' MD5 sums.

Sources: Krizhevsky 2009 (CIFAR); Netzer et al. 2011 (SVHN, the cropped digits; its extra part is not used).
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlrun.data import Splits
from dlrun.data.augment import build_augment
from dlrun.data.facts import Facts
from dlrun.data.image_sets import Arrays, Known, data_root, fetch, missing
from dlrun.data.pixels import chosen_range
from dlrun.errors import ConfigError, DataError, did_you_mean

SHAPE = (3, 32, 32)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip

SETS = {
    "cifar10": Known("cifar-10-batches-py", SHAPE, CIFAR10, 50000, 10000),
    "cifar100": Known("cifar-100-python", SHAPE, CIFAR100, 50000, 10000),
    "svhn": Known("", SHAPE, tuple("0123456789"), 73257, 26032),
}
FILES = {
    "cifar10": [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"],
    "cifar100": ["train", "test", "meta"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
}


class TorchvisionImages:
    """CIFAR-10, CIFAR-100 or SVHN: 32 x 32 colour images.

    Args:
        name: ``cifar10``, ``cifar100`` or ``svhn``.
        root: folder with the unpacked files in torchvision's layout; null means ``$DLRUN_DATA`` or
            ``~/.cache/dlrun/data``.
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
            raise ConfigError(f"there is no torchvision data set '{name}'{did_you_mean(name, SETS)}")
        self.name, self.root, self.download, self.val, self.seed = name, root, download, val, seed
        self.augment = build_augment(augment)
        self.pixels = chosen_range(pixels, wanted_pixels)

    def facts(self) -> Facts:
        """Facts known by name; reads nothing."""
        return SETS[self.name].facts(self.name, self.val, self.pixels)

    def load(self) -> Splits:
        """Read both parts, after fetching them where they are missing.

        Raises:
            DataError: a file is missing and cannot be fetched, or is damaged.
        """
        self._fetch_missing()
        train, test = self._read("train"), self._read("test")
        return SETS[self.name].splits(self.name, train, test, self.val, self.seed, self.pixels)

    def _fetch_missing(self) -> None:
        """Download what is not there; raise DataError naming the first missing file when that cannot be."""
        if self._first_missing() is None:
            return
        why = fetch(self._download) if self.download else "data.download is false"
        lacking = self._first_missing()
        if lacking is not None:
            known = SETS[self.name]
            contents = known.folder or FILES[self.name][0]
            raise missing(
                self.name,
                lacking,
                data_root(self.root) / known.folder,
                contents,
                why or "the download did not bring it",
            )

    def _first_missing(self) -> str | None:
        folder = data_root(self.root) / SETS[self.name].folder
        return next((file for file in FILES[self.name] if not (folder / file).is_file()), None)

    def _download(self) -> None:
        for part in ("train", "test"):
            self._open(part, download=True)

    def _open(self, part: str, download: bool) -> Any:
        from torchvision import datasets

        root = str(data_root(self.root))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy remarks on the pickles of 2009
            if self.name == "svhn":
                return datasets.SVHN(root, split=part, download=download)
            kind = datasets.CIFAR10 if self.name == "cifar10" else datasets.CIFAR100
            return kind(root, train=part == "train", download=download)

    def _read(self, part: str) -> Arrays:
        """Images (N, C, H, W) uint8 and labels (N,) int64 of one part."""
        folder = data_root(self.root) / SETS[self.name].folder
        try:
            data = self._open(part, download=False)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(
                f"the {part} part of {self.name} in {folder} is damaged or another version's (its MD5 sum is wrong): "
                "delete the folder's files and run the command again to fetch them."
            ) from error
        if self.name == "svhn":
            return np.ascontiguousarray(data.data), data.labels.astype(np.int64)
        return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets, dtype=np.int64)

"""What the image data sets known by name share: where their files lie, how they are fetched, how they are split."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dlrun.data import Examples, Splits
from dlrun.data.facts import Facts
from dlrun.data.pixels import NOTES, drawn, preprocess_for
from dlrun.data.splitting import held_out_count, split_indices
from dlrun.errors import DataError

PATIENCE = 30.0  # seconds without a byte before a server counts as unreachable

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Known:
    """What is fixed about a data set known by name: it is stated here, so that nothing is read to learn it.

    Attributes:
        folder: where the files lie under ``data.root``.
        shape: (C, H, W).
        classes: names, in the order of their index.
        train: examples of the training part as published (validation examples are taken from it).
        test: examples of the test part as published.
    """

    folder: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train: int
    test: int

    def facts(self, name: str, val: float, pixels: str) -> Facts:
        """Facts with the share ``val`` of the training part held out; raises DataError for a bad share."""
        held = held_out_count(self.train, val)
        sizes = {"train": self.train - held, "val": held, "test": self.test}
        notes = NOTES[pixels]
        return Facts(name, "image", self.shape, "classification", classes=self.classes, sizes=sizes, notes=notes)

    def splits(self, name: str, train: Arrays, test: Arrays, val: float, seed: int, pixels: str) -> Splits:
        """Check the arrays (uint8 (N, C, H, W), int64 (N,)) against what is known, hold out the validation part, fit.

        ``pixels`` is the range of ``dlrun.data.pixels`` that the network sees.

        Raises:
            DataError: a part has another size or shape, or a label no class has.
        """
        for (images, labels), count, part in ((train, self.train, "training"), (test, self.test, "test")):
            if images.shape != (count, *self.shape) or labels.shape != (count,):
                raise DataError(
                    f"the {part} part of {name} has images of shape {images.shape} and {len(labels)} labels, "
                    f"not {(count, *self.shape)} and {count}: its files are another data set's."
                )
            if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(self.classes):
                raise DataError(f"the {part} part of {name} has a label outside 0 to {len(self.classes) - 1}.")
        whole = Examples(torch.from_numpy(train[0]), torch.from_numpy(train[1]))
        kept, held = split_indices(len(whole), val, seed, whole.targets)
        parts = [Examples(whole.inputs[rows], whole.targets[rows]) for rows in (kept, held)]
        parts = drawn(pixels, [*parts, Examples(torch.from_numpy(test[0]), torch.from_numpy(test[1]))], seed)
        return Splits(
            facts=self.facts(name, val, pixels),
            train=parts[0],
            val=parts[1],
            test=parts[2],
            preprocess=preprocess_for(pixels, parts[0].inputs),
            fingerprint=digest(*train, *test),
        )


def digest(*arrays: NDArray[np.generic]) -> str:
    """SHA-256 over the bytes of arrays, in order."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def data_root(root: str | None) -> Path:
    """Where data sets known by name lie: ``data.root``, else ``$DLRUN_DATA``, else ``~/.cache/dlrun/data``."""
    return Path(root or os.environ.get("DLRUN_DATA") or "~/.cache/dlrun/data").expanduser()


def missing(name: str, file: str, folder: Path, contents: str, why: str) -> DataError:
    """Word the error for a data set whose files are neither there nor to be had.

    ``contents`` is the folder that a usable ``data.root`` holds; ``why`` is what came of the download.
    """
    return DataError(
        f"{file} of {name} is not in {folder} and {why}: with the files in DIR/{contents}, "
        f"run `dlrun train data={name} data.root=DIR`."
    )


def fetch(download: Callable[[], object]) -> str | None:
    """Run a downloader of torchvision's, its words on standard error; return None, or in a few words why it failed."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the command's result
            download()
    except (OSError, RuntimeError, EOFError, ValueError) as error:  # no network, no space, a wrong checksum
        words = str(error).split("\n")[0].strip(" .:") or type(error).__name__
        return f"could not be downloaded ({words})"
    finally:
        socket.setdefaulttimeout(before)
    return None

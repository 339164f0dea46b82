"""Labelled images in tar shards of the WebDataset format, read at random by an index of where each one lies.

The format's own library reads shards from first to last and mixes what a buffer holds. On a disk of this machine that
is not needed: the headers tell where each image lies, in one pass that is kept, and from then on an image is read like
a file. So the order is a permutation of all examples and a function of (seed, epoch), sizes are exact, a run resumes at
its batch, and nothing depends on the number of workers; neither is the library needed. On spinning disks the reading
from all places is slow: raise ``data.memory`` there.

Legend: N examples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrun.data import Splits
from dlrun.data.augment import build_augment
from dlrun.data.facts import Facts
from dlrun.data.image_parts import Images, Plan, checked_channels, checked_memory, checked_size, hold_out, plan
from dlrun.data.images import Encoded
from dlrun.data.pixels import chosen_range
from dlrun.data.scanning import Count
from dlrun.data.webdataset_index import Index, index_of
from dlrun.data.webdataset_names import parts_of, shards_of
from dlrun.data.webdataset_tar import DIGITS, name_before
from dlrun.errors import ConfigError, DataError

MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Shards:
    """The images of one part: shard, place and length of each, and its class index."""

    paths: tuple[Path, ...]
    shard: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Encoded:
        path, offset, size = self.paths[self.shard[index]], int(self.offsets[index]), int(self.sizes[index])
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                data, name = os.pread(fd, size, offset), name_before(fd, offset)
            finally:
                os.close(fd)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        if len(data) < size:
            raise DataError(f"{path} is cut short: it was longer when this run began.")
        return Encoded(f"{name} in {path}", data)

    def take(self, rows: Tensor) -> Shards:
        """The images of some rows."""
        at = rows.numpy()
        return Shards(self.paths, self.shard[at], self.offsets[at], self.sizes[at], self.labels[rows])

    def stamps(self) -> Iterator[str]:
        """Name, length and time of the last change of each shard; then which images are of this part."""
        for path in self.paths:
            status = path.stat()
            yield f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n"
        for values in (self.shard, self.offsets, self.labels.numpy()):
            yield hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


class WebDataset:
    """Labelled images in tar shards: ``NAME.jpg`` (or another kind) beside ``NAME.cls`` or ``NAME.json``.

    Args:
        path: a folder of shards, a shard, or a pattern (``shards/train-{000..146}.tar``).
        val_path: the validation part's, where they are not told by name.
        test_path: the test part's, likewise.
        label_key: the key of ``NAME.json`` that holds the class; without it ``NAME.cls`` does. A class is its number or
            its name.
        classes: a file with the name of a class in each line; classes.txt beside the shards is taken.
        size: ``auto`` (the images' own size where they agree, else 64 x 64), pixels, or ``[height, width]``.
        channels: ``auto`` (1 where all are grey, else 3), 1 or 3.
        memory: GiB of decoded images up to which they are read whole; more are streamed.
        val: share of the training part held out, where there are no shards for it.
        test: share of all images held out, where there are no shards for it.
        seed: of the split.
        augment: ``{crop, flip, erase}`` for training batches.
        pixels: the range the network sees; auto: the task's.
        wanted_pixels: the range that the task wants.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        label_key: str | None = None,
        classes: str | None = None,
        size: str | int | Sequence[int] = "auto",
        channels: str | int = "auto",
        memory: float = 2.0,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        augment: Mapping[str, Any] | None = None,
        pixels: str = "auto",
        wanted_pixels: str = "standard",
    ) -> None:
        self.path, self.label_key, self.classes = path, label_key, classes
        self.others = {"val": val_path, "test": test_path}
        self.size, self.channels, self.memory = checked_size(size), checked_channels(channels), checked_memory(memory)
        self.val, self.test, self.seed = val, test, seed
        self.augment = build_augment(augment)
        self.pixels = chosen_range(pixels, wanted_pixels)

    def facts(self) -> Facts:
        """Facts from the headers and labels in the shards and of some of the images; raises DataError."""
        return self._plan.facts

    def load(self) -> Splits:
        """Read all images, or prepare to stream them when they are larger than ``memory``.

        Raises:
            DataError: an image cannot be decoded; names it and its shard.
        """
        return self._plan.load(self.memory, self.pixels, self.seed)

    @cached_property
    def _plan(self) -> Plan:
        files, notes = self._files()
        count = Count("images found")
        indices = {part: [_counted(path, self.label_key, count) for path in paths] for part, paths in files.items()}
        count.end()
        ignored = sum(index.ignored for found in indices.values() for index in found)
        if ignored:
            notes.append(f"{ignored} samples without an image were passed over.")
        texts = {part: {text for index in found for text in index.texts} for part, found in indices.items()}
        if not texts["train"]:
            raise DataError(f"{files['train'][0]} has no images in it: expected NAME.jpg beside NAME.cls or NAME.json.")
        classes, numbers = _classes(texts, self._names(files["train"][0]))
        parts: dict[str, Images] = {p: _shards(files[p], found, numbers) for p, found in indices.items()}
        parts = hold_out(parts, self.val, self.test, self.seed)
        return plan("webdataset", parts, classes, self.size, self.channels, notes, self.pixels)

    def _files(self) -> tuple[dict[str, list[Path]], list[str]]:
        if self.path is None:
            raise ConfigError("data=webdataset needs the shards: `dlrun train data=webdataset data.path=FOLDER`.")
        path = Path(self.path).expanduser()
        files, notes = parts_of(path) if path.is_dir() else ({"train": shards_of("data.path", self.path)}, [])
        for part, pattern in self.others.items():
            if pattern is not None:
                files[part] = shards_of(f"data.{part}_path", pattern)
        return files, notes

    def _names(self, shard: Path) -> tuple[str, ...] | None:
        """The names of the classes, where a file has them."""
        file = shard.parent / "classes.txt" if self.classes is None else Path(self.classes).expanduser()
        if self.classes is None and not file.is_file():
            return None
        try:
            lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        if len(set(lines)) < len(lines) or not lines:
            raise DataError(f"{file} {'names a class twice' if lines else 'is empty'}: one class a line is needed.")
        return tuple(lines)


def _counted(path: Path, label_key: str | None, count: Count) -> Index:
    index = index_of(path, label_key)
    count.add(len(index.offsets))
    return index


def _shards(paths: list[Path], indices: list[Index], numbers: dict[str, int]) -> Shards:
    """The samples of a part's shards, one shard after another."""
    labels = [np.array([numbers[text] for text in index.texts], dtype=np.int64)[index.codes] for index in indices]
    which = np.repeat(np.arange(len(paths), dtype=np.int32), [len(index.offsets) for index in indices])
    offsets, sizes = (np.concatenate([getattr(i, name) for i in indices]) for name in ("offsets", "sizes"))
    return Shards(tuple(paths), which, offsets, sizes, torch.from_numpy(np.concatenate(labels)))


def _classes(texts: dict[str, set[str]], names: tuple[str, ...] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and the class index of each label text: its number, or the place of its name.

    Raises:
        DataError: a label that is no class, or one that the training part has no example of.
    """
    every = set.union(*texts.values())
    numbered = {text: int(text) for text in every if text.isascii() and text.isdigit() and len(text) <= DIGITS}
    if names is None and len(numbered) < len(every):
        names, numbered = tuple(sorted(texts["train"])), {}
        for part, of in texts.items():
            if odd := sorted(of - texts["train"]):
                raise DataError(f"the class '{odd[0]}' of the {part} shards is not in the train shards.")
    if names is None:
        highest = max(numbered.values())
        if highest >= MOST_CLASSES:
            raise DataError(f"a label is {highest:,}: classes are numbered from 0, and at most {MOST_CLASSES:,}.")
        names = tuple(map(str, range(highest + 1)))
    places = {name: place for place, name in enumerate(names)}
    found = (
        places if every <= set(names) else {text: numbered.get(text, places.get(text, len(names))) for text in every}
    )
    if wrong := sorted(text for text, place in found.items() if place >= len(names)):
        raise DataError(f"the label '{wrong[0]}' is none of the {len(names)} classes, neither by name nor by number.")
    return names, found

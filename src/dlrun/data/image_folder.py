"""Any folder of images: class folders, or train, val and test folders of class folders; any sizes and modes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlrun.data import Examples, Item, Part, Splits
from dlrun.data.augment import build_augment
from dlrun.data.facts import Facts
from dlrun.data.image_sets import digest
from dlrun.data.images import image_files, peek, read_image, read_images
from dlrun.data.pixels import NOTES, chosen_range, drawn, preprocess_for
from dlrun.data.splitting import split_indices
from dlrun.errors import ConfigError, DataError

LAYOUT = "PATH/CLASS/*.png, or PATH/train/CLASS/*.png with val/ and test/ beside it"
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
PEEKED = 512  # files whose header decides size and channels
MEASURED = 4096  # images that mean and standard deviation of a streamed set are taken from
USUAL_SIZE = (64, 64)


@dataclass(frozen=True)
class Listing:
    """The files of one part and the class index of each: labels (N,) int64."""

    files: tuple[Path, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Tensor) -> Listing:
        """The listing of some rows."""
        return Listing(tuple(self.files[row] for row in rows.tolist()), self.labels[rows])


class ImageFiles(Dataset[Item]):
    """Images decoded when they are asked for: items (uint8 (C, H, W), int64 class index)."""

    def __init__(self, listing: Listing, channels: int, size: tuple[int, int]) -> None:
        self.files, self.targets, self.channels, self.size = listing.files, listing.labels, channels, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        return read_image(self.files[index], self.channels, self.size), self.targets[index]


class ImageFolder:
    """A user's folder of images, one folder per class.

    Args:
        path: the folder; ``root`` is another name for it.
        size: ``auto`` (the images' own size where they agree, else 64 x 64), pixels, or ``[height, width]``.
        channels: ``auto`` (1 where all are grey, else 3), 1 or 3.
        memory: GiB of decoded images up to which they are read whole; more are streamed.
        val: share of the training part held out, where there is no val folder.
        test: share of all images held out, where there is no test folder.
        seed: of the split.
        augment: ``{crop, flip, erase}`` for training batches.
        pixels: the range the network sees: ``standard``, ``unit``, ``symmetric``, ``binary`` (streamed images are cut
            at half of white instead of drawn); auto: the task's.
        wanted_pixels: the range that the task wants.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        root: str | None = None,
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
        if channels not in ("auto", 1, 3):
            raise ConfigError(f"data.channels={channels} cannot be used: give auto, 1 (grey) or 3 (colour).")
        if path and root and path != root:
            raise ConfigError(f"data.path={path} and data.root={root} name two folders: leave one of them out.")
        self.path, self.size, self.channels, self.memory = path or root, _checked_size(size), channels, memory
        self.val, self.test, self.seed = val, test, seed
        self.augment = build_augment(augment)
        self.pixels = chosen_range(pixels, wanted_pixels)

    def facts(self) -> Facts:
        """Facts from the names of the files and the headers of some of them; raises DataError."""
        return self._plan.facts

    def load(self) -> Splits:
        """Read all images, or prepare to stream them when they are larger than ``memory``.

        Raises:
            DataError: a file cannot be decoded; names it.
        """
        facts, parts = self._plan.facts, self._plan.parts
        channels, size = facts.input_shape[0], cast(tuple[int, int], facts.input_shape[1:])
        if channels * size[0] * size[1] * sum(map(len, parts.values())) > self.memory * 2**30:
            return _streamed(facts, parts, self.pixels)
        held = [Examples(read_images(list(some.files), channels, size), some.labels) for some in parts.values()]
        fingerprint = digest(*(tensor.numpy() for part in held for tensor in (part.inputs, part.targets)))
        train, val, test = drawn(self.pixels, held, self.seed)
        return Splits(facts, train, val, test, preprocess_for(self.pixels, train.inputs), fingerprint)

    @cached_property
    def _plan(self) -> _Plan:
        if self.path is None:
            raise ConfigError("data=image_folder needs the folder: `dlrun train data=image_folder data.path=FOLDER`.")
        path = Path(self.path).expanduser()
        listings, classes, notes = _list_parts(path)
        notes += NOTES[self.pixels]
        parts = self._split(listings)
        every = [file for part in parts.values() for file in part.files]
        peeked = [peek(file) for file in every[:: -(-len(every) // PEEKED)]]
        size, channels = self.size, self.channels
        if size is None:
            size, *others = {found for found, _ in peeked}
            if others:
                size = USUAL_SIZE
                notes.append(f"The images differ in size and are resized to {size[0]} x {size[1]} (data.size).")
        if channels == "auto":
            channels = 1 if all(grey for _, grey in peeked) else 3
        counts = {name: len(part) for name, part in parts.items()}
        shape = (int(channels), *size)
        facts = Facts(
            "image_folder", "image", shape, "classification", classes=classes, sizes=counts, notes=tuple(notes)
        )
        return _Plan(facts, parts)

    def _split(self, listings: dict[str, Listing]) -> dict[str, Listing]:
        """Hold out the parts that have no folder of their own: first test from all, then val from the rest."""
        parts = dict(listings)
        for name, share in (("test", self.test), ("val", self.val)):
            if name not in parts:
                labels = parts["train"].labels
                kept, held = split_indices(len(labels), share, self.seed, labels)
                parts[name], parts["train"] = parts["train"].take(held), parts["train"].take(kept)
        return {name: parts[name] for name in PARTS}


@dataclass(frozen=True)
class _Plan:
    """What ``ImageFolder`` finds before it decodes anything."""

    facts: Facts
    parts: dict[str, Listing]


def _streamed(facts: Facts, parts: dict[str, Listing], pixels: str) -> Splits:
    """Splits whose parts decode their files when asked; the fingerprint is over names, sizes and times of change."""
    channels, size = facts.input_shape[0], cast(tuple[int, int], facts.input_shape[1:])
    train = parts["train"]
    some = train.files[:: -(-len(train) // MEASURED)]
    preprocess = preprocess_for(pixels, read_images(list(some), channels, size))
    total = hashlib.sha256()
    for part in parts.values():
        for file, label in zip(part.files, part.labels.tolist(), strict=True):
            status = file.stat()
            total.update(
                f"{file.name}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
    note = f"The images are streamed from their files; mean and deviation are those of {len(some)} training images."
    facts = replace(facts, notes=(*facts.notes, note))
    streams: dict[str, Part] = {name: ImageFiles(part, channels, size) for name, part in parts.items()}
    return Splits(facts, streams["train"], streams["val"], streams["test"], preprocess, total.hexdigest())


def _list_parts(path: Path) -> tuple[dict[str, Listing], tuple[str, ...], list[str]]:
    """List the parts that have a folder (a lone ``train`` for a plain folder of classes), the classes, and notes.

    Raises:
        DataError: the folder is missing or empty, or its parts differ in their classes.
    """
    if not path.is_dir():
        raise DataError(f"{path} is {'no folder' if path.exists() else 'missing'}: expected {LAYOUT}.")
    folders = {
        part: next((path / name for name in names if _subfolders(path / name)), None) for part, names in PARTS.items()
    }
    if folders["train"] is None:
        folders = {"train": path}
    notes = [
        f"{path / name} has no class folders and was passed over."
        for part, names in PARTS.items()
        for name in names
        if folders.get(part, path) is None and (path / name).is_dir()
    ]
    found = {part: _classes(folder) for part, folder in folders.items() if folder is not None}
    classes = tuple(sorted(found["train"][0]))
    if not classes:
        raise DataError(f"{folders['train']} has no images in it: expected {LAYOUT}.")
    for part, (files, _) in found.items():
        if odd := sorted(set(files) ^ set(classes)):
            where = "train" if odd[0] in classes else part
            raise DataError(
                f"the classes of {folders[part]} and {folders['train']} differ: '{odd[0]}' is in {where}/ alone."
            )
    listings = {
        part: Listing(
            tuple(file for name in classes for file in files[name]),
            torch.tensor([index for index, name in enumerate(classes) for _ in files[name]], dtype=torch.int64),
        )
        for part, (files, _) in found.items()
    }
    ignored = sum(count for _, count in found.values())
    if ignored:
        notes.append(f"{ignored} entries that are no image files were passed over.")
    return listings, classes, notes


def _classes(folder: Path) -> tuple[dict[str, list[Path]], int]:
    """Map the class folders that hold images to their files; count everything else.

    Images that lie in the folder itself, without class folders, are of one class: enough to learn to draw them.
    """
    inside = _subfolders(folder)
    ignored = sum(1 for entry in folder.iterdir()) - len(inside)
    found = {}
    for entry in inside:
        files, skipped = image_files(entry)
        ignored += skipped if files else skipped + 1
        if files:
            found[entry.name] = files
    if not found:
        files, ignored = image_files(folder)
        found = {folder.name: files} if files else {}
    return found, ignored


def _subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted; none when it is no folder."""
    if not folder.is_dir():
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.") from error


def _checked_size(size: str | int | Sequence[int]) -> tuple[int, int] | None:
    """(H, W), or None for ``auto``."""
    if size == "auto":
        return None
    sides = [size, size] if isinstance(size, int) else list(cast(Sequence[int], size))
    if isinstance(size, str | bool) or len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"data.size={size} cannot be used: give auto, a number of pixels, or [height,width].")
    return sides[0], sides[1]

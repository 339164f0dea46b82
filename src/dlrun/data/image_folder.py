"""Any folder of images: class folders, or train, val and test folders of class folders; any sizes and modes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dlrun.data import Splits
from dlrun.data.augment import build_augment
from dlrun.data.facts import Facts
from dlrun.data.image_parts import PARTS, Plan, checked_channels, checked_memory, checked_size, hold_out, plan
from dlrun.data.images import SUFFIXES
from dlrun.data.pixels import chosen_range
from dlrun.data.scanning import Count, Names, files_below
from dlrun.errors import ConfigError, DataError

LAYOUT = "PATH/CLASS/*.png, or PATH/train/CLASS/*.png with val/ and test/ beside it"


@dataclass(frozen=True)
class Listing:
    """The files of one part, as paths from a folder, and the class index of each: labels (N,) int64."""

    folder: Path
    names: Names
    labels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.folder / self.names[index]

    def take(self, rows: Tensor) -> Listing:
        """The listing of some rows."""
        return Listing(self.folder, self.names.take(rows), self.labels[rows])

    def stamps(self) -> Iterator[str]:
        """Name, class, length and time of the last change of each file."""
        folder = str(self.folder)
        for name, label in zip(self.names, self.labels.tolist(), strict=True):
            try:
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - a third of a Path's time
            except OSError as error:
                raise DataError(f"{self.folder / name} cannot be read: {error.strerror}.") from error
            yield f"{name.rpartition(os.sep)[2]}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n"


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
        if path and root and path != root:
            raise ConfigError(f"data.path={path} and data.root={root} name two folders: leave one of them out.")
        self.path, self.size, self.memory = path or root, checked_size(size), checked_memory(memory)
        self.channels = checked_channels(channels)
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
        return self._plan.load(self.memory, self.pixels, self.seed)

    @cached_property
    def _plan(self) -> Plan:
        if self.path is None:
            raise ConfigError("data=image_folder needs the folder: `dlrun train data=image_folder data.path=FOLDER`.")
        listings, classes, notes = _list_parts(Path(self.path).expanduser())
        parts = hold_out(listings, self.val, self.test, self.seed)
        return plan("image_folder", parts, classes, self.size, self.channels, notes, self.pixels)


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
    count = Count("images found")
    found = {part: _classes(folder, count) for part, folder in folders.items() if folder is not None}
    count.end()
    classes = tuple(sorted(found["train"][0]))
    if not classes:
        raise DataError(f"{folders['train']} has no images in it: expected {LAYOUT}.")
    for part, (files, _) in found.items():
        if odd := sorted(set(files) ^ set(classes)):
            where = "train" if odd[0] in classes else part
            raise DataError(
                f"the classes of {folders[part]} and {folders['train']} differ: '{odd[0]}' is in {where}/ alone."
            )
    listings = {part: _listing(cast(Path, folders[part]), files, classes) for part, (files, _) in found.items()}
    ignored = sum(count for _, count in found.values())
    if ignored:
        notes.append(f"{ignored} entries that are no image files were passed over.")
    return listings, classes, notes


def _listing(folder: Path, files: dict[str, list[str]], classes: tuple[str, ...]) -> Listing:
    counts = torch.tensor([len(files[name]) for name in classes])
    names = Names(file for name in classes for file in files[name])
    return Listing(folder, names, torch.arange(len(classes)).repeat_interleave(counts))


def _classes(folder: Path, count: Count) -> tuple[dict[str, list[str]], int]:
    """Map the class folders that hold images to their files, as paths from ``folder``; count everything else.

    Images that lie in the folder itself, without class folders, are of one class: enough to learn to draw them.
    """
    inside = _subfolders(folder)
    ignored = sum(1 for entry in folder.iterdir()) - len(inside)
    found = {}
    for entry in inside:
        files, skipped = files_below(str(entry), SUFFIXES, count)
        ignored += skipped if files else skipped + 1
        if files:
            found[entry.name] = [f"{entry.name}{os.sep}{file}" for file in files]
    if not found:
        files, ignored = files_below(str(folder), SUFFIXES, count)
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

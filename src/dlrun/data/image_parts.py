"""Parts of a set of labelled images, wherever they lie: their facts, then the images read whole or streamed.

Legend: N examples, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor
from torch.utils.data import Dataset

from dlrun.data import Examples, Item, Part, Splits
from dlrun.data.facts import Facts
from dlrun.data.image_sets import digest
from dlrun.data.images import Encoded, peek, read_image, read_images
from dlrun.data.pixels import NOTES, drawn, preprocess_for
from dlrun.data.splitting import split_indices
from dlrun.errors import ConfigError

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
PEEKED = 512  # images whose header decides size and channels
MEASURED = 4096  # images that mean and standard deviation of a streamed set are taken from
USUAL_SIZE = (64, 64)


class Images(Protocol):
    """The encoded images of one part; item ``i`` is a file, or the bytes of one."""

    @property
    def labels(self) -> Tensor:
        """Class index of each: (N,) int64."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Path | Encoded:
        """The image at a place; raises DataError where it cannot be had."""
        ...

    def take(self, rows: Tensor) -> Images:
        """The images of some rows."""
        ...

    def stamps(self) -> Iterator[str]:
        """One line for each thing that must not change while a run goes on."""
        ...


class ImageFiles(Dataset[Item]):
    """Images decoded when they are asked for: items (uint8 (C, H, W), int64 class index)."""

    def __init__(self, images: Images, channels: int, size: tuple[int, int]) -> None:
        self.images, self.targets, self.channels, self.size = images, images.labels, channels, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return read_image(self.images[index], self.channels, self.size), self.targets[index]


def checked_memory(memory: float) -> float:
    """``data.memory`` as it is; raises ConfigError unless it is a number of GiB from 0."""
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not memory >= 0:
        raise ConfigError(f"data.memory={memory} is no number of GiB: give 0 (always stream) or more, such as 2.")
    return memory


@dataclass(frozen=True)
class Plan:
    """What is known before anything is decoded."""

    facts: Facts
    parts: dict[str, Images]

    def load(self, memory: float, pixels: str, seed: int) -> Splits:
        """Read all images, or prepare to stream them when they take more than ``memory`` GiB.

        Raises:
            DataError: an image cannot be decoded; names it.
        """
        channels, size = self.facts.input_shape[0], cast(tuple[int, int], self.facts.input_shape[1:])
        if channels * size[0] * size[1] * sum(map(len, self.parts.values())) > memory * 2**30:
            return self._streamed(pixels)
        held = [Examples(read_images(some, channels, size), some.labels) for some in self.parts.values()]
        fingerprint = digest(*(tensor.numpy() for part in held for tensor in (part.inputs, part.targets)))
        train, val, test = drawn(pixels, held, seed)
        return Splits(self.facts, train, val, test, preprocess_for(pixels, train.inputs), fingerprint)

    def _streamed(self, pixels: str) -> Splits:
        """Splits whose parts decode their images when asked."""
        facts, train = self.facts, self.parts["train"]
        channels, size = facts.input_shape[0], cast(tuple[int, int], facts.input_shape[1:])
        some = [train[row] for row in range(0, len(train), -(-len(train) // MEASURED))]
        preprocess = preprocess_for(pixels, read_images(some, channels, size))
        total = hashlib.sha256()
        for part in self.parts.values():
            for line in part.stamps():
                total.update(line.encode(errors="surrogateescape"))
        note = f"The images are streamed from their files; mean and deviation are those of {len(some)} training images."
        streams: dict[str, Part] = {name: ImageFiles(part, channels, size) for name, part in self.parts.items()}
        facts = replace(facts, notes=(*facts.notes, note))
        return Splits(facts, streams["train"], streams["val"], streams["test"], preprocess, total.hexdigest())


def plan(
    name: str,
    parts: Mapping[str, Images],
    classes: tuple[str, ...],
    size: tuple[int, int] | None,
    channels: str | int,
    notes: Sequence[str],
    pixels: str,
) -> Plan:
    """The facts of the parts; size (None) and channels ("auto") are looked up in the headers of some of the images."""
    peeked = [peek(image) for image in _spread(list(parts.values()), PEEKED)]
    found = list(notes) + list(NOTES[pixels])
    if size is None:
        size, *others = {seen for seen, _ in peeked}
        if others:
            size = USUAL_SIZE
            found.append(f"The images differ in size and are resized to {size[0]} x {size[1]} (data.size).")
    if channels == "auto":
        channels = 1 if all(grey for _, grey in peeked) else 3
    counts = {part: len(some) for part, some in parts.items()}
    shape = (int(channels), *size)
    facts = Facts(name, "image", shape, "classification", classes=classes, sizes=counts, notes=tuple(found))
    return Plan(facts, dict(parts))


def _spread(parts: Sequence[Images], most: int) -> Iterator[Path | Encoded]:
    """At most so many images, spread evenly over all parts."""
    total, begin = sum(map(len, parts)), 0
    step = -(-total // most)
    for part in parts:
        yield from (part[row] for row in range(-begin % step, len(part), step))
        begin += len(part)


def hold_out(parts: Mapping[str, Images], val: float, test: float, seed: int) -> dict[str, Images]:
    """Hold out the parts that are not there: first test from all, then val from the rest, a share of each class."""
    found = dict(parts)
    for name, share in (("test", test), ("val", val)):
        if name not in found:
            labels = found["train"].labels
            kept, held = split_indices(len(labels), share, seed, labels)
            found[name], found["train"] = found["train"].take(held), found["train"].take(kept)
    return {name: found[name] for name in PARTS}


def checked_size(size: str | int | Sequence[int]) -> tuple[int, int] | None:
    """(H, W), or None for ``auto``.

    Raises:
        ConfigError: it is no size.
    """
    if size == "auto":
        return None
    sides = [size, size] if isinstance(size, int) else list(cast(Sequence[int], size))
    if isinstance(size, str | bool) or len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"data.size={size} cannot be used: give auto, a number of pixels, or [height,width].")
    return sides[0], sides[1]


def checked_channels(channels: str | int) -> str | int:
    """``auto``, 1 or 3.

    Raises:
        ConfigError: it is none of them.
    """
    if channels not in ("auto", 1, 3):
        raise ConfigError(f"data.channels={channels} cannot be used: give auto, 1 (grey) or 3 (colour).")
    return channels

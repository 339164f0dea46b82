"""Folders of pictures for super-resolution: each is shrunk by bicubic interpolation, and the network enlarges it again.

Luma alone is learnt, as in the literature: Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 from ITU-R BT.601, from 16
(black) to 235 (white) and rounded, which is MATLAB's ``rgb2ycbcr``; a grey picture keeps its values. Sides are cut to
multiples of the scale before shrinking (modulo crop). Training sees patches cut at regular places, as C. Dong et al.,
ECCV 2014, section 4; validation and test see whole pictures.

Shapes: N patches, B batch, h and w low resolution, H = scale * h and W = scale * w high resolution, P patches of one
picture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from dlrun.data import Examples, Item, Splits
from dlrun.data.facts import Facts
from dlrun.data.images import image_files, peek, read_image
from dlrun.data.splitting import split_indices
from dlrun.errors import ConfigError, DataError
from dlrun.models.bicubic import resize

RED_GREEN_BLUE = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # of BT.601, for values from 0 to 255
BLACK, RANGE = 16.0, 219.0
LARGEST = 150  # megapixels of a picture that predict makes
LEAST = 11  # pixels of a side that structural similarity can be measured on, beside the border


def luma(raw: Tensor) -> Tensor:
    """(B, 3, H, W) from 0 to 255 as Y (B, 1, H, W) from 16 to 235, not rounded; (B, 1, H, W) is luma already."""
    if raw.shape[1] == 1:
        return raw.float()
    weights = torch.tensor(RED_GREEN_BLUE, device=raw.device).view(3, 1, 1)
    return BLACK + (raw.float() * weights).sum(1, keepdim=True)


class SuperresPreprocess:
    """Raw luma (B, 1, h, w) or colours (B, 3, h, w), from 0 to 255, to luma from 0 to 1.

    Args:
        scale: how many times larger the network makes a picture.
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, inputs: Tensor) -> Tensor:
        """Luma (B, 1, h, w) float32 on the same device; that of colours is rounded to whole grey values."""
        grey = luma(inputs)
        return (grey if inputs.shape[1] == 1 else grey.round()) / 255

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read one picture: raw (1, 1, h, w) when it is grey, else (1, 3, h, w), and its name.

        Raises:
            DataError: the file is missing or no picture, or the result would be larger than 150 megapixels.
        """
        (height, width), grey = peek(path)
        if height * width * self.scale**2 > LARGEST * 1_000_000:
            raise DataError(
                f"{path} has {width} x {height} pixels; {self.scale} times larger is over {LARGEST} megapixels, "
                "cut it into pieces first"
            )
        return read_image(path, 1 if grey else 3, (height, width)).unsqueeze(0), [path.name]

    def invert(self, ready: Tensor) -> Tensor:
        """Luma in the network's range as grey values from 0 to 1, those beyond cut off."""
        return ready.clamp(0, 1)

    def recolour(self, raw: Tensor, ready: Tensor) -> Tensor:
        """The network's luma (1, 1, H, W) with the enlarged colours of ``raw`` (1, 3, h, w), from 0 to 1.

        The two chroma channels are enlarged by bicubic interpolation, since the eye resolves them poorly. Luma is the
        same multiple of 255/219 in red, green and blue, so that its error is added to all three alike.
        """
        if raw.shape[1] == 1:
            return self.invert(ready)
        size = (self.scale * raw.shape[2], self.scale * raw.shape[3])
        large = functional.interpolate(raw.float(), size, mode="bicubic", antialias=True)
        missing = (255 * ready - luma(large)).mul_(255 / RANGE)
        return large.add_(missing).div_(255).clamp_(0, 1)

    def state(self) -> dict[str, Any]:
        """The scale, as JSON-able values."""
        return {"kind": "superres", "scale": self.scale}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> SuperresPreprocess:
        """Build the object that ``state`` came from."""
        return cls(state["scale"])


class Pictures(Dataset[Item]):
    """Whole pictures, read when they are asked for: items (low (1, h, w) from 0 to 255, high (1, H, W) from 0 to 1)."""

    singly = True

    def __init__(self, files: list[Path], scale: int) -> None:
        self.files, self.scale = files, scale

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        low, high = low_and_high(self.files[index], self.scale)
        return low[0], high[0]


def low_and_high(path: Path, scale: int) -> tuple[Tensor, Tensor]:
    """A picture's luma shrunk (1, 1, h, w), from 0 to 255 and not rounded, and as it is (1, 1, H, W), from 0 to 1."""
    (height, width), grey = peek(path)
    high = luma(read_image(path, 1 if grey else 3, (height, width)).unsqueeze(0)).round()
    low_height, low_width = height // scale, width // scale
    high = high[..., : low_height * scale, : low_width * scale]
    return resize(high, low_height, low_width), high / 255


class SuperResolutionFolder:
    """A folder of pictures to learn from, and one of pictures to test on.

    Args:
        path: folder of training pictures, searched to any depth.
        test_path: folder of test pictures; what is in it is never trained on. None: no test part.
        scale: how many times larger the network makes a picture.
        patch: side of a training patch in pixels of low resolution.
        stride: pixels of low resolution between one patch and the next.
        val: share of the training pictures held out.
        memory: GiB of patches that are held; of more a random choice is taken.
        seed: of the split and of that choice.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        test_path: str | None = None,
        scale: int = 3,
        patch: int = 11,
        stride: int = 5,
        val: float = 0.1,
        memory: float = 1.0,
        seed: int = 0,
    ) -> None:
        for key, value, least in (("scale", scale, 2), ("patch", patch, 4), ("stride", stride, 1)):
            if value < least:
                raise ConfigError(f"data.{key}={value} cannot be used: give a whole number from {least} up.")
        if memory <= 0:
            raise ConfigError(f"data.memory={memory} must be above 0, such as data.memory=1")
        self.path, self.test_path, self.scale, self.patch, self.stride = path, test_path, scale, patch, stride
        self.val, self.memory, self.seed = val, memory, seed

    def facts(self) -> Facts:
        """Facts from the names and the headers of the files; raises DataError."""
        return self._plan.facts

    def load(self) -> Splits:
        """Cut the training pictures into patches; the others are read when they are asked for.

        Raises:
            DataError: a file cannot be decoded; names it.
        """
        plan = self._plan
        rows = plan.chosen(self.seed)
        side, stride, scale = self.patch, self.stride, self.scale
        inputs = torch.empty(len(rows), 1, side, side)
        targets = torch.empty(len(rows), 1, side * scale, side * scale)
        first = done = 0
        for file, count in zip(plan.train, plan.counts, strict=True):
            wanted = rows[(rows >= first) & (rows < first + count)] - first
            if len(wanted):
                low, high = low_and_high(file, scale)
                place = slice(done, done + len(wanted))
                inputs[place] = cut(low, side, stride)[wanted]
                targets[place] = cut(high, side * scale, stride * scale)[wanted]
            first, done = first + count, done + len(wanted)
        val, test = (Pictures(files, scale) for files in (plan.val, plan.test))
        fingerprint = _digest([*plan.train, *plan.val, *plan.test])
        return Splits(plan.facts, Examples(inputs, targets), val, test, SuperresPreprocess(scale), fingerprint)

    @cached_property
    def _plan(self) -> _Plan:
        if self.path is None:
            raise ConfigError(
                "data=superres needs a folder of pictures: `dlrun train data=superres model=espcn data.path=FOLDER "
                "data.test_path=FOLDER`."
            )
        test = [] if self.test_path is None else _listed(self.test_path)
        every = _listed(self.path)
        apart = {file.resolve() for file in test}
        files = [file for file in every if file.resolve() not in apart]
        notes = [f"{len(every) - len(files)} test pictures lie in data.path and are not trained on."]
        notes = notes if len(files) < len(every) else []
        least = max(self.patch * self.scale, LEAST + 2 * self.scale)
        sizes = {file: peek(file)[0] for file in [*files, *test]}
        fitting = [file for file in files if min(sizes[file]) >= least]
        tested = [file for file in test if min(sizes[file]) >= least]
        if small := len(files) + len(test) - len(fitting) - len(tested):
            notes.append(f"{small} pictures with a side below {least} pixels were passed over.")
        if not fitting or (test and not tested):
            empty = self.test_path if fitting else self.path
            raise DataError(f"{empty} has no picture of at least {least} x {least} pixels to use.")
        kept, held = split_indices(len(fitting), self.val, self.seed)
        train, val = ([fitting[i] for i in some.tolist()] for some in (kept, held))
        counts = [self._patches(*sizes[file]) for file in train]
        most = int(self.memory * 2**30 / (4 * self.patch**2 * (1 + self.scale**2)))
        taken = min(sum(counts), max(1, most))
        if taken < sum(counts):
            notes.append(f"{taken:,} of {sum(counts):,} patches were chosen at random (data.memory).")
        side = self.patch * self.scale
        facts = Facts(
            "superres", "image", (1, self.patch, self.patch), "super_resolution", scale=self.scale,
            target_shape=(1, side, side), sizes={"train": taken, "val": len(val), "test": len(tested)},
            notes=(f"{len(train)} pictures are cut into patches of {side} x {side} pixels; luma alone is learnt.",
                   *notes),
        )  # fmt: skip
        return _Plan(facts, train, val, tested, counts, taken)

    def _patches(self, height: int, width: int) -> int:
        rows, columns = ((side // self.scale - self.patch) // self.stride + 1 for side in (height, width))
        return rows * columns


@dataclass(frozen=True)
class _Plan:
    """What is found before anything is decoded; ``counts`` are the patches of each training picture."""

    facts: Facts
    train: list[Path]
    val: list[Path]
    test: list[Path]
    counts: list[int]
    taken: int

    def chosen(self, seed: int) -> Tensor:
        """The numbers of the patches that are used, sorted."""
        order = torch.randperm(sum(self.counts), generator=torch.Generator().manual_seed(seed))
        return order[: self.taken].sort().values


def cut(picture: Tensor, side: int, stride: int) -> Tensor:
    """Patches (P, 1, side, side) of a picture (1, 1, H, W), row by row."""
    return picture[0, 0].unfold(0, side, stride).unfold(1, side, stride).reshape(-1, 1, side, side)


def _listed(folder: str) -> list[Path]:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DataError(f"{path} is {'no folder' if path.exists() else 'missing'}: a folder of pictures is needed.")
    if not (files := image_files(path)[0]):
        raise DataError(f"{path} holds no picture.")
    return files


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        try:
            total.update(file.read_bytes())
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    return total.hexdigest()

"""Where an answer is written, and how: CSV that a spreadsheet may open safely, PNG, text; never over what was read."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from dlrun.data.columns import is_number
from dlrun.errors import ConfigError, StorageError

GAP = 2  # pixels between the tiles of a sheet
STANDARD_OUTPUT = Path("-")


def sheet(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) from 0 to 1 side by side on white, about as many down as across: (C, H', W')."""
    number, channels, height, width = pictures.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    out = torch.ones(channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for i, picture in enumerate(pictures):
        top, left = (
            place * (side + GAP) + GAP for place, side in zip(divmod(i, columns), (height, width), strict=True)
        )
        out[:, top : top + height, left : left + width] = picture
    return out


def one_file(output: Path | None, folder: Path, name: str, inputs: Sequence[Path]) -> Path:
    """Where one file goes: ``output``, or ``name`` in it when it is a folder; raises ConfigError over an input."""
    target = folder / name if output is None else output / name if output.is_dir() else output
    _check_apart([target], inputs)
    return target


def picture_files(files: Sequence[Path], output: Path | None, folder: Path) -> list[Path]:
    """A PNG for each file: ``output`` itself for a single one, else named like the files, in that folder.

    Raises:
        ConfigError: ``output`` is no place for these pictures, or one of them would lie over an input.
    """
    if output == STANDARD_OUTPUT:
        raise ConfigError("pictures cannot go to standard output; write --output FILE.png or --output FOLDER")
    if output is not None and not output.is_dir() and output.suffix:
        if len(files) > 1:
            raise ConfigError(f"--output {output} is one file for {len(files)} pictures; give a folder")
        if output.suffix.lower() != ".png":
            raise ConfigError(f"pictures are written as PNG: --output {output.with_suffix('.png')}")
        targets = [output]
    else:
        targets = [(output or folder) / f"{name}.png" for name in _apart([file.stem for file in files])]
    _check_apart(targets, files)
    return targets


def _apart(names: Sequence[str]) -> list[str]:
    """The names, those that were there before with a number behind them."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        found.append(name if name not in found else next(other for other in numbered if other not in {*found, *names}))
    return found


def _check_apart(targets: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse to write over a file that is read."""
    read = {file.resolve() for file in inputs}
    for target in targets:
        if target.resolve() in read:
            raise ConfigError(f"{target} is an input and would be lost; give another --output")


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows with the same keys as a CSV file; raises StorageError."""
    if path == STANDARD_OUTPUT:
        _csv(sys.stdout, rows, "\n")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            _csv(file, rows, "\r\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _csv(file: TextIO, rows: list[dict[str, object]], line_end: str) -> None:
    writer = csv.writer(file, lineterminator=line_end)
    writer.writerow([_harmless(name) for name in (rows[0] if rows else ["input"])])
    writer.writerows([_harmless(value) for value in row.values()] for row in rows)


def _harmless(value: object) -> object:
    """A cell that a spreadsheet would run as a formula starts with a quote."""
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r") or is_number(value):
        return value
    return f"'{value}"


def write_picture(path: Path, picture: Tensor) -> None:
    """A picture (C, H, W) from 0 to 1, grey or in colour, as PNG."""
    from PIL import Image

    pixels = (picture * 255).round_().to(torch.uint8)
    image = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous()).numpy())
    memory = BytesIO()
    image.save(memory, format="PNG")
    write(path, memory.getvalue())


def write(path: Path, content: bytes) -> None:
    """A file of these bytes, its folders made where they are missing; raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error

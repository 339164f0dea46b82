"""Image files and image tensors: decoding any file to a common form, and the preprocessing every image data set shares.

Legend: B batch, N examples, C channels, H height, W width.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dlrun.data.scanning import files_below
from dlrun.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".avif", ".jp2",
)  # fmt: skip
MEGAPIXELS = 50
CHUNK = 4096
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image file that lies in an archive, and what to call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


class Encodings(Protocol):
    """Encoded images by their place: a list of files, or what fetches the bytes of one when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Path | Encoded: ...


def _sums(inputs: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Sums of the values / scale and of their squares, of each channel, for images (N, C, H, W): float64 (C,)."""
    total, squares = (torch.zeros(inputs.shape[1], dtype=torch.float64) for _ in range(2))
    for chunk in inputs.split(CHUNK):
        values = chunk.to(torch.float64) / scale
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    return total, squares


def _sums_of_bytes(inputs: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The same for bytes, from how often each of their 256 values is there: exact, and three times as fast."""
    counts = torch.zeros(inputs.shape[1], 256, dtype=torch.int64)
    for chunk in inputs.split(CHUNK):
        for channel, counted in zip(chunk.unbind(1), counts, strict=True):
            counted += torch.bincount(channel.reshape(-1), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / scale
    return counts.double() @ values, counts.double() @ values.square()


class ImagePreprocess:
    """Bring images into the network's range: (x / scale - mean) / std per channel.

    Standardising takes the training part's mean and standard deviation; ``dlrun.data.pixels`` has the other ranges.

    Args:
        mean: of each channel, of values divided by ``scale``.
        std: of each channel, likewise.
        channels: 1 (grey) or 3 (red, green, blue).
        size: (H, W) of every image; a file read for prediction is resized to it.
        scale: the raw value that means white.
        binary: every pixel from half of white on is white, every other one black.
    """

    def __init__(
        self,
        *,
        mean: list[float],
        std: list[float],
        channels: int,
        size: tuple[int, int],
        scale: float = 255.0,
        binary: bool = False,
    ) -> None:
        self.mean, self.std, self.channels, self.size, self.scale = mean, std, channels, size, scale
        self.binary = binary
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @classmethod
    def fit(cls, inputs: Tensor, scale: float = 255.0) -> ImagePreprocess:
        """Measure mean and standard deviation of raw images (N, C, H, W) in float64; a constant channel gets std 1."""
        channels = inputs.shape[1]
        total, squares = (_sums_of_bytes if inputs.dtype == torch.uint8 else _sums)(inputs, scale)
        count = max(1, inputs.numel() // channels)
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        std[std < 1e-6] = 1.0
        height, width = inputs.shape[2:]
        return cls(mean=mean.tolist(), std=std.tolist(), channels=channels, size=(height, width), scale=scale)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Turn raw images (B, C, H, W), uint8 or float, into float32 of the same shape on the same device."""
        shift, spread = self._shift_and_spread(inputs.device)
        scaled = inputs.to(torch.float32, copy=True).div_(self.scale)
        if self.binary:
            scaled = scaled.ge_(0.5)
        return scaled.sub_(shift).div_(spread)

    def invert(self, ready: Tensor) -> Tensor:
        """Images (B, C, H, W) in the network's range as values from 0 (black) to 1 (white), those beyond cut off."""
        shift, spread = self._shift_and_spread(ready.device)
        return (ready * spread + shift).clamp(0, 1)

    def _shift_and_spread(self, device: torch.device) -> tuple[Tensor, Tensor]:
        constants = self._constants.get(device)
        if constants is None:
            shift, spread = (torch.tensor(values).view(-1, 1, 1).to(device) for values in (self.mean, self.std))
            constants = self._constants[device] = shift, spread
        return constants

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read an image file, or all images of a folder: raw (N, C, H, W) in this data set's range, and file names.

        Raises:
            DataError: the path is missing, holds no image, or an image cannot be decoded.
        """
        files = image_files(path)[0] if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path} holds no image file (looked for {', '.join(SUFFIXES)}).")
        images = read_images(files, self.channels, self.size)
        names = [str(file.relative_to(path)) for file in files] if path.is_dir() else [path.name]
        return (images if self.scale == 255 else images.to(torch.float32) * (self.scale / 255)), names

    def state(self) -> dict[str, Any]:
        """Everything needed to build this object again, as JSON-able values."""
        return {
            "kind": "image",
            "mean": self.mean,
            "std": self.std,
            "channels": self.channels,
            "size": list(self.size),
            "scale": self.scale,
            "binary": self.binary,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> ImagePreprocess:
        """Build the object that ``state`` came from."""
        height, width = state["size"]
        return cls(
            mean=list(state["mean"]),
            std=list(state["std"]),
            channels=state["channels"],
            size=(height, width),
            scale=state["scale"],
            binary=state.get("binary", False),  # checkpoints of older versions have none
        )


def image_files(folder: Path) -> tuple[list[Path], int]:
    """List the image files under a folder, sorted, and count the entries that are passed over.

    Hidden entries, other kinds of files, links to folders and dangling or circular links are passed over; pipes and
    sockets are too, so that nothing here can block.

    Raises:
        DataError: a folder cannot be listed.
    """
    names, ignored = files_below(str(folder), SUFFIXES)
    return [folder / name for name in names], ignored


def read_images(files: Encodings, channels: int, size: tuple[int, int]) -> Tensor:
    """Decode files on a pool of threads (decoders release the interpreter lock) into (N, C, H, W) uint8.

    Raises:
        DataError: a file cannot be decoded; names it.
    """
    images = torch.empty((len(files), channels, *size), dtype=torch.uint8)

    def decode(index: int) -> None:
        images[index] = read_image(files[index], channels, size)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(files))):
            pass  # the first failure is raised here and cancels the files not yet begun
    return images


def read_image(path: Path | Encoded, channels: int, size: tuple[int, int]) -> Tensor:
    """Decode one file of any mode to (C, H, W) uint8 of the given size.

    The picture is turned as its EXIF tag says, 16-bit values are brought to 8 bits, transparent pixels are laid on
    white, and another size is reached by bilinear resampling with antialiasing, whatever the aspect ratio.

    Raises:
        DataError: the file is missing, larger than 50 megapixels, damaged or no image.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        height, width = size
        try:
            image.draft(None, (2 * max(size), 2 * max(size)))  # a JPEG may be decoded at a fraction of its size
            plain = _to_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
            if plain.size != (width, height):
                plain = plain.resize((width, height), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly every class there is
            raise DataError(f"{path} is damaged: {_reason(error)}.") from error
    pixels = torch.from_numpy(np.array(plain, dtype=np.uint8))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def peek(path: Path | Encoded) -> tuple[tuple[int, int], bool]:
    """Read a file's header alone: (H, W) as displayed, and whether the image is grey.

    Raises:
        DataError: the file is missing, too large or no image.
    """
    with _opened(path) as image:
        width, height = image.size
        grey = image.mode in GREY_MODES
        try:
            if image.mode == "P":
                table = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
                grey = bool((table == table[:, :1]).all())
            # A PNG without the tag in its header would be decoded whole in search of it.
            tagged = image.format != "PNG" or "exif" in image.info
            turned = tagged and image.getexif().get(_ORIENTATION) in _TURNED
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(f"{path} is damaged: {_reason(error)}.") from error
    return ((width, height) if turned else (height, width)), grey


def _opened(path: Path | Encoded) -> Image:
    """Open a regular file, or the bytes of one, as an image without decoding it."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(path, Path) and not path.is_file():
        raise DataError(f"{path} is {'no regular file' if path.exists() else 'missing'}: an image file is needed.")
    try:
        image = Image.open(path if isinstance(path, Path) else BytesIO(path.data))
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image, or of a kind that cannot be read.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large: more than {MEGAPIXELS} megapixels.") from error
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.") from error
    if image.width * image.height > MEGAPIXELS * 1_000_000:
        image.close()
        raise DataError(f"{path} is too large: {image.width} x {image.height}, more than {MEGAPIXELS} megapixels.")
    return image


def _to_mode(image: Image, mode: str) -> Image:
    """Convert an image of any mode to ``L`` or ``RGB``."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.array(image, dtype=np.float64)
        top = values.max(initial=0.0)  # 16-bit files decode to I;16 or I; float files hold 0..1 or 0..255
        factor = (
            255.0 if image.mode == "F" and top <= 1 else 1 / 257 if image.mode != "F" and _is_deep(image, top) else 1.0
        )
        image = Image.fromarray((values * factor).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _is_deep(image: Image, top: float) -> bool:
    return image.mode != "I" or top > 255


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".").split("\n")[0] or type(error).__name__

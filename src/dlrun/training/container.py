"""The bytes of a checkpoint: a safetensors file whose header carries the state's skeleton and a digest of all bytes.

Layout (safetensors): 8 bytes little-endian header length, the header as JSON, then the tensors' bytes back to back.
``__metadata__`` holds ``format``, ``state`` (the skeleton as JSON), ``step`` where the file belongs to one, and
``digest``: sha256 of the whole file with the digest's own 64 digits read as zeros. safetensors alone loads a flipped
bit without a word.

The header is written here and not by the library because the library orders metadata by hash, differently in each
process, and copies every tensor twice; equal states give equal files here. The library reads what is written here.
No torch in this module: the torture tests run it in small processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.errors import CheckpointError
from dlrun.tracking.durable import open_regular

FORMAT = "dlrun-1"
HEADER_LIMIT = 64 << 20
KEYS_LIMIT = 100_000
DIMENSIONS_LIMIT = 8
ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_ZEROS = b"0" * 64
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in the file, its safetensors type code, its shape and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview | bytes


def pack(entries: Sequence[Entry], skeleton: str, step: int | None = None) -> list[bytes | memoryview]:
    """The chunks of one checkpoint file, in order; raises CheckpointError when it would break a limit of `load`."""
    metadata = {"digest": _ZEROS.decode(), "format": FORMAT, "state": skeleton}
    if step is not None:
        metadata["step"] = str(step)
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    # Wide items first, as the library does, so that every tensor starts at a multiple of its item's size.
    ordered = sorted(entries, key=lambda entry: (-ITEM_SIZES[entry.dtype], entry.name))
    for entry in ordered:
        end = offset + len(entry.data)
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    problem = _beyond_limits(len(text), header)
    if problem:
        raise CheckpointError(f"the state cannot be saved: {problem}")
    return _sealed(text, [entry.data for entry in ordered])


def _sealed(text: bytes, data: list[memoryview | bytes]) -> list[bytes | memoryview]:
    chunks: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text, *data]
    sha = hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
    chunks[1] = text.replace(_ZEROS, sha.hexdigest().encode(), 1)
    return chunks


def load(path: Path) -> tuple[bytes, dict[str, str]]:
    """The verified bytes of the file and its metadata; what is returned is exactly what was checked.

    Raises CheckpointError in a sentence naming the file and what is wrong.
    """
    try:
        with open_regular(path) as fd, open(fd, "rb", closefd=False) as file:
            size = os.fstat(fd).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
                raise damaged(path, f"its {size} bytes do not hold the header it announces")
            header = file.read(length)
            metadata, expected = _checked_header(path, header)
            if size != 8 + length + expected:
                raise damaged(path, f"it has {size} bytes and its header announces {8 + length + expected}")
            data = start + header + file.read(expected)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    _verify_digest(path, data, length)
    return data, metadata


def damaged(path: Path, why: str) -> CheckpointError:
    """The error for a file whose bytes are not those that were saved."""
    return CheckpointError(f"the checkpoint {path} is damaged: {why}")


def _checked_header(path: Path, text: bytes) -> tuple[dict[str, str], int]:
    """Metadata and the number of data bytes, once every limit is checked and before any library sees the file."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "its header is not readable JSON") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a table")
    problem = _beyond_limits(len(text), header)
    if problem:
        raise damaged(path, problem)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} is no checkpoint of dlrun: it has no metadata")
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} has the format {metadata.get('format')!r}; this dlrun reads {FORMAT!r}")
    if not {"state", "digest"} <= metadata.keys():
        raise damaged(path, "its metadata lacks the state or the digest")
    return metadata, _data_size(path, header)


def _beyond_limits(length: int, header: dict[str, Any]) -> str | None:
    if length > HEADER_LIMIT:
        return f"its header has {length} bytes, more than {HEADER_LIMIT}"
    if len(header) > KEYS_LIMIT:
        return f"it has {len(header)} tensors, more than {KEYS_LIMIT}"
    for name, entry in header.items():
        shape = entry.get("shape", ()) if isinstance(entry, dict) else ()
        if isinstance(shape, list) and len(shape) > DIMENSIONS_LIMIT:
            return f"tensor {name[:200]!r} has {len(shape)} dimensions, more than {DIMENSIONS_LIMIT}"
    return None


def _data_size(path: Path, header: dict[str, Any]) -> int:
    """Bytes of all tensors, which must lie back to back from 0 without gap or overlap."""
    spans = []
    for name, entry in header.items():
        try:
            begin, end = entry["data_offsets"]
            sizes = entry["shape"]
            valid = all(type(number) is int and number >= 0 for number in (begin, end, *sizes))
            valid = valid and end - begin == math.prod(sizes) * ITEM_SIZES[entry["dtype"]]
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise damaged(path, f"the entry of tensor {name[:200]!r} contradicts itself")
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise damaged(path, "its tensors overlap or leave gaps")
        position = end
    return position


def _verify_digest(path: Path, data: bytes, length: int) -> None:
    found = list(_DIGEST.finditer(data, 8, 8 + length))
    # Inside the skeleton every quote is escaped, so only the metadata's own key can match.
    if len(found) != 1:
        raise damaged(path, "its digest is not where it belongs")
    begin, end = found[0].span(1)
    view = memoryview(data)
    sha = hashlib.sha256(view[:begin])
    sha.update(_ZEROS)
    sha.update(view[end:])
    if sha.hexdigest().encode() != found[0][1]:
        raise damaged(path, "its digest does not match its bytes")

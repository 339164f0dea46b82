"""Checkpoints without pickle: a nested state of plain values and tensors, in one file that verifies itself.

The skeleton is the state as JSON with each tensor replaced by its name; tensors are named by their path in the state,
so that any reader of safetensors shows ``model.layers.0.weight``. What JSON cannot say is a one-key table:
``{"tensor": name}``, ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"float": "nan"}``,
``{"int": "0x..."}``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dlrun.tracking.durable import DISK, Disk, replace
from dlrun.training.container import Entry, damaged, load, pack
from dlrun.training.shelf import Shelf

_DEPTH_LIMIT = 100
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(path: Path, state: dict[Any, Any], disk: Disk = DISK) -> int:
    """Save ``state`` durably and atomically at ``path``; returns the bytes written.

    ``state`` nests dict (keys str or int), list, tuple, str, int, float, bool and None, with tensors at the leaves.
    Raises StorageError when the disk refuses (the old file is intact) and TypeError for a value that has no place in a
    file.
    """
    return replace(path, encode(state), disk)


def read(path: Path) -> dict[Any, Any]:
    """The state saved at ``path``, tensors on the CPU; raises CheckpointError in a sentence when anything is wrong."""
    return decode(path, *load(path))


class Checkpoints:
    """The checkpoints of one run: the newest steps, and the best."""

    def __init__(self, folder: Path, keep: int = 2, disk: Disk = DISK) -> None:
        self._shelf = Shelf(folder, keep, disk)

    def save(self, step: int, state: dict[Any, Any]) -> Path:
        """Save the state of ``step``; once it is durable, older ones than the ``keep`` newest go."""
        return self._shelf.save(step, encode(state, step))

    def save_best(self, step: int, state: dict[Any, Any]) -> Path:
        """Save ``best.ckpt``; the old best is there until the new one is whole."""
        return self._shelf.save_best(encode(state, step))

    def newest(self) -> tuple[dict[Any, Any], Path, list[str]] | None:
        """State and file of the newest checkpoint that verifies, and a sentence for each newer one that does not.

        None when there is none at all; raises CheckpointError when there are some and none is good.
        """
        found = self._shelf.newest()
        if found is None:
            return None
        data, metadata, path, rejected = found
        return decode(path, data, metadata), path, rejected

    def best(self) -> dict[Any, Any] | None:
        """The state of ``best.ckpt``, None when there is none; raises CheckpointError when it is damaged."""
        path = self._shelf.best_path
        return read(path) if path.exists() or path.is_symlink() else None

    def network(self) -> dict[Any, Any] | None:
        """The state that holds the network to use: the best, else the newest; None when there is no checkpoint."""
        best = self.best()
        newest = self.newest() if best is None else None
        return newest[0] if newest else best

    def sweep_temporaries(self) -> None:
        """Remove what killed writers left; call only when holding the run's lock."""
        self._shelf.sweep_temporaries()


def encode(state: dict[Any, Any], step: int | None = None) -> list[bytes | memoryview]:
    """The chunks of a checkpoint file. The tensors are views: they must not change until the chunks are written."""
    entries: dict[str, Entry] = {}
    skeleton = _skeleton(state, (), entries)
    return pack(list(entries.values()), json.dumps(skeleton, separators=(",", ":"), allow_nan=False), step)


def _skeleton(value: Any, path: tuple[str, ...], entries: dict[str, Entry]) -> Any:
    if len(path) > _DEPTH_LIMIT:
        raise TypeError(f"the state is nested deeper than {_DEPTH_LIMIT} at {'.'.join(path[:5])}...")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"tensor": _add(value, path, entries)}
    if isinstance(value, dict):
        return {"dict": [[_key(k, path), _skeleton(v, (*path, str(k)), entries)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_skeleton(item, (*path, str(index)), entries) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise TypeError(f"a checkpoint cannot hold {'.'.join(path) or 'the state'}: it is a {type(value).__name__}")


def _key(key: Any, path: tuple[str, ...]) -> Any:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return int(key) if abs(key) < 2**63 else {"int": hex(key)}
    raise TypeError(f"a checkpoint cannot hold the key {key!r} of {'.'.join(path) or 'the state'}: keys are str or int")


def _add(tensor: Tensor, path: tuple[str, ...], entries: dict[str, Entry]) -> str:
    name = ".".join(path)
    while name in entries or name in ("", "__metadata__"):  # {"a": {"b": t}} and {"a.b": t} would be one name
        name += "'"
    if tensor.dtype not in _CODES or tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TypeError(f"a checkpoint cannot hold the tensor {name}: {tensor.dtype}, {tensor.layout}, {tensor.device}")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().data
    entries[name] = Entry(name, _CODES[tensor.dtype], tuple(tensor.shape), data)
    return name


def decode(path: Path, data: bytes, metadata: dict[str, str]) -> dict[Any, Any]:
    """The state in the verified bytes of ``path``; raises CheckpointError when skeleton and tensors do not fit."""
    try:
        tensors = safetensors.torch.load(data)
        state = _restored(json.loads(metadata["state"]), tensors)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, "its state and its tensors do not fit together") from error
    if not isinstance(state, dict):
        raise damaged(path, "its state is not a table")
    return state


def _restored(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {_restored(key, tensors): _restored(item, tensors) for key, item in content}
    if kind == "tuple":
        return tuple(_restored(item, tensors) for item in content)
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "int":
        return int(content, 16)
    raise ValueError(kind)

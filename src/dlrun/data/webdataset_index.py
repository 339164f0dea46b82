"""Where the samples of a shard lie: one pass over its headers and labels, kept for the next run.

A sample is a run of members with one name up to the first dot, as the WebDataset format has it (A. Aizman, G. Maltby
and T. Breuel, "High Performance I/O For Large Scale Deep Learning", IEEE Big Data 2019): ``0001.jpg`` and ``0001.cls``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrun.data.image_sets import data_root
from dlrun.data.images import SUFFIXES
from dlrun.data.webdataset_tar import Member, members
from dlrun.errors import DataError, did_you_mean

FEW = 1000  # samples; the places in a smaller shard are looked up anew
LARGEST_LABEL = 2**20
VERSION = 1
IMAGES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)


@dataclass(frozen=True)
class Index:
    """The samples of one shard.

    Attributes:
        offsets: (N,) int64, where the image begins in the shard.
        sizes: (N,) int64, bytes of the image.
        codes: (N,) int32, the label's place in ``texts``.
        texts: the labels as they stand in the shard.
        ignored: samples without an image.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    codes: NDArray[np.int32]
    texts: tuple[str, ...]
    ignored: int


def index_of(path: Path, label_key: str | None) -> Index:
    """The index of a shard: the kept one while the shard is as it was then, else a new one.

    Raises:
        DataError: the shard is damaged, or a sample has no label; names it.
    """
    kept = _place(path, label_key)
    found = _read(kept)
    if found is None:
        found = _build(path, label_key)
        if len(found.offsets) >= FEW:
            _keep(kept, found)
    return found


def _build(path: Path, label_key: str | None) -> Index:
    offsets, sizes, codes = [], [], []
    texts: dict[str, int] = {}
    ignored = 0
    with path.open("rb") as file:
        for key, parts in _samples(path):
            image = next((member for suffix, member in parts.items() if suffix.lower() in IMAGES), None)
            if image is None:
                ignored += 1
                continue
            text = _label(path, file.fileno(), key, parts, label_key)
            offsets.append(image.offset)
            sizes.append(image.size)
            codes.append(texts.setdefault(text, len(texts)))
    begin, length = np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64)
    return Index(begin, length, np.array(codes, dtype=np.int32), tuple(texts), ignored)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Runs of members of one name: that name, and the members by what follows its first dot."""
    current, parts = "", dict[str, Member]()
    for member in members(path):
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if not stem or not suffix:  # hidden, or of no kind
            continue
        key = folder + slash + stem
        if key != current and parts:
            yield current, parts
            parts = {}
        current = key
        parts[suffix] = member
    if parts:
        yield current, parts


def _label(path: Path, fd: int, key: str, parts: dict[str, Member], label_key: str | None) -> str:
    """The label of a sample: the text of its .cls, or what its .json has under ``label_key``."""
    wanted = "cls" if label_key is None else "json"
    member = parts.get(wanted)
    if member is None:
        more = " (the key in its .json that is its class: data.label_key=KEY)" if "json" in parts else ""
        raise DataError(f"{key} in {path} has no .{wanted} with its class{more}; it has .{', .'.join(parts)}.")
    if member.size > LARGEST_LABEL:
        raise DataError(f"{member.name} in {path} has {member.size:,} bytes: no label.")
    try:
        text = os.pread(fd, member.size, member.offset).decode()
        value = text.strip() if label_key is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{member.name} in {path} cannot be read: {error}.") from error
    if label_key is None:
        return text.strip()
    if not isinstance(value, dict) or label_key not in value:
        there = did_you_mean(label_key, map(str, value)) if isinstance(value, dict) else ""
        raise DataError(f"{member.name} in {path} has no key '{label_key}' (data.label_key){there}.")
    found = value[label_key]
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise DataError(f"{member.name} in {path}: '{label_key}' is {json.dumps(found)[:40]}, no class.")
    return str(found).strip()


def _place(path: Path, label_key: str | None) -> Path:
    """The file that keeps the index of a shard as it is now; another length or time of change has another file."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    what = json.dumps([VERSION, os.fsencode(path.absolute()).hex(), status.st_size, status.st_mtime_ns, label_key])
    return data_root(None) / "shards" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.npz"


def _keep(place: Path, index: Index) -> None:
    """Write the index under its name once it is whole; a disk that refuses costs the next run a pass, nothing else."""
    draft = place.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                np.savez(
                    file,
                    offsets=index.offsets,
                    sizes=index.sizes,
                    codes=index.codes,
                    texts=np.frombuffer(json.dumps(index.texts).encode(), dtype=np.uint8),
                    ignored=np.int64(index.ignored),
                )
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)


def _read(place: Path) -> Index | None:
    """A kept index, or None where there is none that can be read."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            texts = tuple(map(str, json.loads(kept["texts"].tobytes())))
            index = Index(kept["offsets"], kept["sizes"], kept["codes"], texts, int(kept["ignored"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    same = len(index.offsets) == len(index.sizes) == len(index.codes)
    return index if same and (not len(index.codes) or index.codes.max() < len(index.texts)) else None

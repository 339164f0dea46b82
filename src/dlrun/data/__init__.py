"""Data sets: what a class of the ``data`` group offers, and what it gives once loaded."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from dlrun.data.facts import Facts
from dlrun.data.windows import Windows

Item = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Examples:
    """A part of a data set held as tensors.

    Attributes:
        inputs: (N, ...), raw (uint8 images) or ready (float32 tables).
        targets: (N,) int64 class indices, or (N, D) float32 or float64 values in their own units.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class Preprocess(Protocol):
    """Raw input to network input. Its statistics are fitted on the training part alone."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Turn raw inputs (B, ...) on any device into float32 (B, *input_shape)."""
        ...

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read a user's file for ``dlrun predict``: raw inputs (N, ...) and a name for each; raises DataError."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to build this object again, as JSON-able values with a ``kind`` key."""
        ...


Part = Examples | Windows | Dataset[Item]


@dataclass(frozen=True)
class Splits:
    """A loaded data set: training, validation and test part (the last two may be empty).

    A training part that is a ``Dataset`` has an attribute ``targets`` (N,) or (N, D), known without reading an item.
    A ``Dataset`` whose items differ in shape has a class attribute ``singly = True``: its batches are of one item.
    """

    facts: Facts
    train: Part
    val: Part
    test: Part
    preprocess: Preprocess
    fingerprint: str


class Data(Protocol):
    """What a class of the ``data`` group offers."""

    def facts(self) -> Facts:
        """What is known before loading; reads nothing for data known by name. Raises DataError."""
        ...

    def load(self) -> Splits:
        """Read, split and fit everything. Raises DataError naming the file and the row."""
        ...


KINDS = {
    "image": "dlrun.data.images.ImagePreprocess",
    "table": "dlrun.data.tabular.TablePreprocess",
    "language": "dlrun.data.text.LanguagePreprocess",
    "text": "dlrun.data.text_classification.TextPreprocess",
    "series": "dlrun.data.series.SeriesPreprocess",
    "audio": "dlrun.data.audio_folder.AudioPreprocess",
    "superres": "dlrun.data.superres.SuperresPreprocess",
    "libsvm": "dlrun.data.libsvm_file.LibsvmPreprocess",
}


def restore_preprocess(state: dict[str, Any]) -> Preprocess:
    """Build the preprocessing stored in a checkpoint again: the inverse of ``Preprocess.state``."""
    module, _, name = KINDS[state["kind"]].rpartition(".")
    preprocess: Preprocess = getattr(importlib.import_module(module), name).restore(state)
    return preprocess

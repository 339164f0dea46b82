"""One column of a table: text to numbers, and numbers or categories to network inputs.

Legend: N rows, K inputs of the network that a column becomes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Inputs = npt.NDArray[np.float32]

MISSING = frozenset(
    ["", "?", "-"]
    + [style for word in ("na", "n/a", "nan", "null", "none") for style in (word, word.upper(), word.title())]
    + ["NaN"]
)
LARGEST = 1e30  # its square still fits in float64, and itself in float32
FARTHEST = 100.0  # standard deviations; beyond it an input is cut, so that one wild value cannot blow up a network
SKEWED = 2.0


@dataclass(frozen=True)
class Numbers:
    """A column of text as numbers.

    Attributes:
        values: (N,) float64; NaN where a value is missing or is no number.
        bad: the rows whose text is no number and no mark of a missing value.
    """

    values: Floats
    bad: list[int]


def is_number(text: str) -> bool:
    """Whether a text is a finite number as a data file writes it (``1_000`` and ``inf`` are not)."""
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def to_numbers(texts: Sequence[str]) -> Numbers:
    """Read a column of texts as numbers; infinite ones are kept for the caller to refuse."""
    try:  # the usual column has neither gaps nor mistakes
        values = np.fromiter(map(float, texts), np.float64, count=len(texts))
        if "_" not in "".join(texts):
            return Numbers(values, [])
    except ValueError:
        pass
    known: dict[str, float] = {}  # each distinct text is read once: columns repeat themselves
    wrong: set[str] = set()
    for text in set(texts):
        known[text] = math.nan
        if text not in MISSING:
            try:
                known[text] = float(text)
            except ValueError:
                wrong.add(text)
            if "_" in text:  # Python's own way to write numbers, and not that of data files
                known[text] = math.nan
                wrong.add(text)
    values = np.fromiter(map(known.__getitem__, texts), np.float64, count=len(texts))
    return Numbers(values, [row for row, text in enumerate(texts) if text in wrong] if wrong else [])


@dataclass(frozen=True)
class NumberColumn:
    """A numeric column: gaps filled, tail shortened where it is heavy, standardised.

    Attributes:
        name: the column's name.
        fill: what a missing value becomes (the training median).
        log: whether log(1 + x) is taken first; values below zero then count as zero.
        mean, std: of the training part, after filling and logarithm.
    """

    name: str
    fill: float = 0.0
    log: bool = False
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, name: str, values: Floats, may_log: bool = False) -> NumberColumn | None:
        """Fit to the training part's values (N,), NaN for missing; None for a column that says nothing (constant)."""
        present = values[~np.isnan(values)]
        if len(present) == 0 or present.min() == present.max():
            return None
        fill = float(np.median(present))
        filled = np.where(np.isnan(values), fill, values)
        log = may_log and _better_as_log(filled)
        filled = np.log1p(filled) if log else filled
        mean, std = float(filled.mean()), float(filled.std())
        if std <= 1e-9 * abs(mean):
            return None
        return cls(name, fill, log, mean, std)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the network inputs this column becomes."""
        return (self.name,)

    def encode(self, values: Floats) -> Inputs:
        """Values (N,), NaN for missing, to inputs (N, 1), cut at 100 standard deviations."""
        filled = np.where(np.isnan(values), self.fill, values)
        filled = np.log1p(np.maximum(filled, 0.0)) if self.log else filled
        return ((filled - self.mean) / self.std).clip(-FARTHEST, FARTHEST).astype(np.float32)[:, None]

    def state(self) -> dict[str, Any]:
        """JSON-able values that ``restore_column`` turns back into this column."""
        return {"kind": "number", **asdict(self)}


@dataclass(frozen=True)
class CategoryColumn:
    """A categorical column, one input per category (one-hot).

    A missing value is a category of its own. Where the training part has more than the kept categories, one further
    input stands for the rest and for values never seen; where it has not, a value never seen is all zeros, since an
    input that was zero for all of training has weights that mean nothing.
    """

    name: str
    categories: tuple[str, ...]
    other: bool

    @classmethod
    def fit(cls, name: str, texts: Sequence[str], most: int) -> CategoryColumn | None:
        """Keep the ``most`` frequent categories of the training part; None for a column with a single value."""
        counts = Counter("" if text in MISSING else text for text in texts)
        if len(counts) < 2:
            return None
        kept = sorted(counts, key=lambda text: (-counts[text], text))[:most]
        return cls(name, tuple(kept), len(counts) > len(kept))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the network inputs this column becomes."""
        kept = [f"{self.name}={text or 'missing'}" for text in self.categories]
        return (*kept, f"{self.name}=other") if self.other else tuple(kept)

    def encode(self, texts: Sequence[str]) -> Inputs:
        """Texts (N,) to inputs (N, K) of zeros and ones."""
        place = {text: i for i, text in enumerate(self.categories)}
        unseen = len(place) if self.other else -1
        codes = np.fromiter(
            (place.get("" if text in MISSING else text, unseen) for text in texts), np.int64, count=len(texts)
        )
        inputs = np.zeros((len(texts), len(self.features)), np.float32)
        rows = np.flatnonzero(codes >= 0)
        inputs[rows, codes[rows]] = 1.0
        return inputs

    def state(self) -> dict[str, Any]:
        """JSON-able values that ``restore_column`` turns back into this column."""
        return {"kind": "category", "name": self.name, "categories": list(self.categories), "other": self.other}


Column = NumberColumn | CategoryColumn


def restore_column(state: dict[str, Any]) -> Column:
    """The inverse of a column's ``state``."""
    values = {key: value for key, value in state.items() if key != "kind"}
    if state["kind"] == "number":
        return NumberColumn(**values)
    return CategoryColumn(**{**values, "categories": tuple(values["categories"])})


def _skewness(values: Floats) -> float:
    centred = values - values.mean()
    std = float(values.std())
    return float(np.mean((centred / std) ** 3)) if std > 0 else 0.0


def _better_as_log(values: Floats) -> bool:
    """A non-negative column with a heavy right tail that the logarithm at least halves."""
    if values.min() < 0:
        return False
    skew = _skewness(values)
    return skew > SKEWED and abs(_skewness(np.log1p(values))) < skew / 2

"""``data=text_classification``: texts with a label each, from a file or folder of any usual layout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.data import Examples, Splits
from dlrun.data.facts import Facts
from dlrun.data.tabular import shorten, three_parts
from dlrun.data.text_coders import PADDING, SPECIAL, Coder, fit_coder, restore_coder
from dlrun.data.text_file import TextFile
from dlrun.data.text_layouts import (
    TABLES,
    TEXT_NAMES,
    Columns,
    Labelled,
    label_lines,
    longest,
    read_labelled,
    read_text_table,
)
from dlrun.errors import ConfigError, DataError, did_you_mean, nearest

TOKENS = ("auto", "characters", "words", "bpe")
SHORT = 20  # characters: texts whose median is shorter are names, and read letter by letter
LONGEST = 2000  # tokens that length=auto keeps at most
SHARE_KEPT = 0.99  # of the training texts that length=auto does not cut
FEWEST = 5
NAME = 60  # characters of a text that stand for it in predictions
PARTS = {"train": "training", "val": "validation", "test": "test"}
COMMAND = "dlrun train data=text_classification model=lstm data.path=FILE"


@dataclass(frozen=True)
class TextPreprocess:
    """Texts to rows of tokens, as the training part taught it.

    Attributes:
        coder: splits a text and numbers its tokens; 0 is padding, 1 an unknown token.
        length: tokens of a row; longer texts are cut.
        labels: of the classes: a file to predict from may begin its lines with them.
        column: of the texts, in a table with a header.
    """

    coder: Coder
    length: int
    labels: tuple[str, ...]
    column: str | None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Identity: texts are tokens (B, T) int64 from the moment they are read."""
        return inputs

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Rows (N, T) int64, filled up with zeros on the right."""
        return filled_up([self.coder.encode(text) for text in texts], self.length)

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read texts for ``dlrun predict``: one a line, with or without labels before them, or a table's column.

        Returns rows (N, T) int64, and the beginning of each text. Raises DataError.
        """
        if path.suffix.lower() in TABLES:
            table = read_text_table(path, Columns(text=self.column), prefer_rows=True)
            named = [name for name in (self.column, *TEXT_NAMES) if name in table.names]
            place = table.names.index(named[0]) if named else longest(table, list(range(len(table.names))))
            texts = table.columns[place]
        else:
            text = TextFile(path).text
            pairs = label_lines(text) or []
            labelled = bool(pairs) and {label for label, _ in pairs} <= set(self.labels)
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            texts = [words for _, words in pairs] if labelled else lines
        return self.encode(texts), [shorten(text, NAME) for text in texts]

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore`` builds the same object."""
        coder = self.coder.state()
        labels = list(self.labels)
        return {"kind": "text", "coder": coder, "length": self.length, "labels": labels, "column": self.column}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> TextPreprocess:
        """The inverse of ``state``."""
        return cls(restore_coder(state["coder"]), state["length"], tuple(state["labels"]), state["column"])


class TextClassification:
    """Texts of several classes.

    Args:
        path: a file of lines 'label text', or a table of texts and labels; or a folder with one file for each class,
            or with a folder for each.
        val_path, test_path: the same, for the other parts.
        text, label: of a table: the columns, by name or index; null finds out.
        header: of a table: ``auto``, or whether the first line holds the names.
        tokens: ``characters``, ``words``, ``bpe``, or ``auto``: characters where the texts are as short as names.
        vocabulary: the most frequent tokens of the training part that are kept; the others are one unknown token.
        lower: take capitals for small letters.
        length: tokens of a text, which is cut or filled up; ``auto``: what 99 of 100 training texts need.
        val: share of the training part held out to choose the best checkpoint by, without ``val_path``.
        test: share of the texts held out for the test, without ``test_path``.
        seed: of the split.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        text: str | int | None = None,
        label: str | int | None = None,
        header: str | bool = "auto",
        tokens: str = "auto",
        vocabulary: int = 20_000,
        lower: bool = True,
        length: int | str = "auto",
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.path, self.val_path, self.test_path = path, val_path, test_path
        self.text, self.label, self.header = text, label, header
        self.tokens, self.vocabulary, self.lower, self.length = tokens, vocabulary, lower, length
        self.val, self.test, self.seed = val, test, seed

    def facts(self) -> Facts:
        """Read the texts and tell what was found. Raises DataError naming file and line, ConfigError for a key."""
        return self._splits.facts

    def load(self) -> Splits:
        """Read, split and encode; read once, however often it is asked. Raises like ``facts``."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        columns = self._check()
        whole = read_labelled(Path(self.path or "").expanduser(), columns)
        classes = find_classes(whole.labels, self.path or "")
        parts, digests = self._divide(whole, classes, columns)
        train = parts["train"].texts
        coder = fit_coder(self._tokens(train), train, self.vocabulary, self.lower)
        tokens = {name: [coder.encode(text) for text in part.texts] for name, part in parts.items()}
        lengths = [len(row) for row in tokens["train"]]
        length = self._length(lengths)
        preprocess = TextPreprocess(coder, length, classes, whole.column)
        encoded = {
            name: Examples(filled_up(tokens[name], length), labels_of(part.labels, classes, self._path(name)))
            for name, part in parts.items()
        }
        facts = Facts(
            name="text_classification",
            kind="text",
            input_shape=(length,),
            task="classification",
            classes=classes,
            sizes={name: len(part) for name, part in encoded.items()},
            notes=(*whole.notes, *self._tell(coder, length, lengths, encoded), *repeated(parts)),
            vocabulary=coder.size,
            padding=PADDING,
        )
        digest = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        return Splits(facts, encoded["train"], encoded["val"], encoded["test"], preprocess, digest)

    def _check(self) -> Columns:
        """Refuse keys that cannot be; return what is said about a table's columns."""
        if self.path is None:
            raise ConfigError(f"data=text_classification needs a file or folder; run '{COMMAND}'")
        if self.tokens not in TOKENS:
            raise ConfigError(f"data.tokens={self.tokens}: no such tokens{did_you_mean(self.tokens, TOKENS)}")
        if self.length != "auto" and (not isinstance(self.length, int) or self.length < 1):
            raise ConfigError(f"data.length={self.length} must be auto or at least 1; use for example data.length=50")
        if self.vocabulary < 1:
            raise ConfigError(f"data.vocabulary={self.vocabulary} must be at least 1; use for example 20000")
        choices = {"auto": None, "true": True, "false": False}
        if str(self.header).lower() not in choices:
            raise ConfigError(f"data.header={self.header} is none of auto, true, false")
        return Columns(self.text, self.label, choices[str(self.header).lower()])

    def _path(self, part: str) -> str:
        return {"val": self.val_path, "test": self.test_path}.get(part) or self.path or ""

    def _divide(
        self, whole: Labelled, classes: Sequence[str], columns: Columns
    ) -> tuple[dict[str, Labelled], list[str]]:
        """The texts of each part; one that has its own file gets none of the others'."""
        val, test = (0.0 if self.val_path else self.val), (0.0 if self.test_path else self.test)
        labels = labels_of(whole.labels, classes, self.path or "")
        places = three_parts(len(whole.texts), val, test, self.seed, labels)
        parts = {name: chosen(whole, places[i].tolist()) for i, name in enumerate(PARTS)}
        digests = [whole.digest]
        for name, path in (("val", self.val_path), ("test", self.test_path)):
            if path is not None:
                parts[name] = read_labelled(Path(path).expanduser(), columns)
                digests.append(parts[name].digest)
        return parts, digests

    def _tokens(self, train: Sequence[str]) -> str:
        if self.tokens != "auto":
            return self.tokens
        return "characters" if sorted(map(len, train))[len(train) // 2] < SHORT else "words"

    def _length(self, lengths: Sequence[int]) -> int:
        if isinstance(self.length, int):
            return self.length
        return min(LONGEST, sorted(lengths)[max(0, math.floor(SHARE_KEPT * len(lengths)) - 1)])

    def _tell(self, coder: Coder, length: int, lengths: Sequence[int], encoded: dict[str, Examples]) -> list[str]:
        cut = sum(n > length for n in lengths)
        notes = [
            f"tokens: {coder.size:,} {coder.kind} of the training part, with {' and '.join(SPECIAL)}",
            f"texts of {length} tokens: {cut:,} of {len(lengths):,} training texts are cut, others filled up",
        ]
        for name in ("val", "test"):
            real = encoded[name].inputs != PADDING
            unknown = int((encoded[name].inputs == SPECIAL.index("<unknown>")).sum())
            if unknown:
                notes.append(f"{unknown / int(real.sum()):.1%} of the {PARTS[name]} part's tokens are unknown")
        return notes


def find_classes(labels: Sequence[str], path: str) -> tuple[str, ...]:
    """The different labels, by number where all are numbers, else by alphabet.

    Raises:
        DataError: too few examples, fewer than two labels, or hardly two examples of a label.
    """
    different = sorted(set(labels))
    if len(labels) < FEWEST:
        raise DataError(f"{path} has {len(labels)} labelled texts; at least {FEWEST} are needed to learn and to test")
    if len(different) < 2:
        raise DataError(f"{path} has one class only, '{shorten(different[0])}'; a classifier needs two")
    if 2 * len(different) > len(labels) and len(different) > 2:
        raise DataError(
            f"{path} has {len(different):,} different labels for {len(labels):,} texts, too many for classes; "
            "name the columns: data.text=COLUMN data.label=COLUMN"
        )
    if all(label.lstrip("-").isdecimal() for label in different):
        different.sort(key=lambda label: (int(label), label))
    return tuple(different)


def labels_of(labels: Sequence[str], classes: Sequence[str], path: str) -> Tensor:
    """Class indices (N,) int64.

    Raises:
        DataError: a label that the training file does not have.
    """
    index = {label: i for i, label in enumerate(classes)}
    for number, label in enumerate(labels, 1):
        if label not in index:
            close = nearest(label, classes)
            hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(classes[:20])}"
            raise DataError(f"{path}, text {number}: '{shorten(label)}' is no class of the training file's; {hint}")
    return torch.tensor([index[label] for label in labels], dtype=torch.int64)


def filled_up(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Rows of tokens as (N, T) int64: cut at ``length``, with padding on the right."""
    whole = [[*row[:length], *(length - len(row)) * (PADDING,)] for row in rows]
    return torch.tensor(whole, dtype=torch.int64).reshape(len(rows), length)


def chosen(whole: Labelled, places: Sequence[int]) -> Labelled:
    """Some of the texts and their labels."""
    texts, labels = [whole.texts[i] for i in places], [whole.labels[i] for i in places]
    return Labelled(texts, labels, whole.notes, whole.digest, whole.column)


def repeated(parts: dict[str, Labelled]) -> list[str]:
    """A sentence for each part that has texts of the training part: a score on them tells of memory."""
    seen = set(parts["train"].texts)
    counts = {name: sum(text in seen for text in parts[name].texts) for name in ("val", "test")}
    return [
        f"{count:,} texts of the {PARTS[name]} part are in the training part too"
        for name, count in counts.items()
        if count
    ]

"""``data=text``: one long text cut into windows, whose every token is to be predicted from those before it.

The parts lie one after the other: the training part first, then validation and test, as tinyshakespeare is usually cut.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.data import Splits
from dlrun.data.facts import Facts
from dlrun.data.text_file import TextFile
from dlrun.data.tokenizing import BytePairs, Characters, restore_tokenizer
from dlrun.data.windows import Windows
from dlrun.errors import ConfigError, DataError, did_you_mean

TOKENS = ("characters", "bpe")
PARTS = {"train": "training", "val": "validation", "test": "test"}
GAP = "\n\n"  # between the files of a folder
PIECE = 2**20  # characters given to the byte-pair library at a time


@dataclass(frozen=True)
class LanguagePreprocess:
    """Text to tokens and back, as the training part taught it.

    Attributes:
        tokenizer: characters or byte pairs.
    """

    tokenizer: Characters | BytePairs

    def __call__(self, inputs: Tensor) -> Tensor:
        """Identity: a text is tokens (B, T) int64 from the moment it is read."""
        return inputs

    def encode(self, text: str) -> Tensor:
        """Tokens (N,) int64; raises DataError for a character that has none."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """The text of tokens (N,)."""
        return self.tokenizer.decode(tokens.tolist() if isinstance(tokens, Tensor) else tokens)

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Read a prompt for ``dlrun predict``: tokens (1, N) int64, and the file's name.

        The line end after the last line is not part of the prompt. Raises DataError.
        """
        tokens = self.encode(TextFile(path).text.removesuffix("\n"))
        return tokens.unsqueeze(0), [path.name]

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore`` builds the same object."""
        return {"kind": "language", "tokenizer": self.tokenizer.state()}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> LanguagePreprocess:
        """The inverse of ``state``."""
        return cls(restore_tokenizer(state["tokenizer"]))


class Text:
    """A text, to learn which token comes next.

    Args:
        path: a text file, or a folder of .txt files, which are joined by name; null: the reference text that every
            Python carries (``pydoc_data``, 0.5 million characters).
        tokens: ``characters``, or ``bpe`` for byte pairs.
        vocabulary: number of byte-pair tokens.
        context: T, tokens of a window: as far as the network can look back.
        val: share of the text held out to choose the best checkpoint by, after the training part.
        test: share held out for the test, at the end.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        tokens: str = "characters",
        vocabulary: int = 512,
        context: int = 64,
        val: float = 0.1,
        test: float = 0.0,
    ) -> None:
        self.path, self.tokens, self.vocabulary = path, tokens, vocabulary
        self.context, self.val, self.test = context, val, test

    def facts(self) -> Facts:
        """Read the text and count its tokens. Raises DataError naming file and line, ConfigError for a wrong key."""
        return self._splits.facts

    def load(self) -> Splits:
        """Read, cut and encode; read once, however often it is asked. Raises like ``facts``."""
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        self._check()
        text, digest, notes = read_text(self.path)
        parts = self._cut(text)
        tokenizer, told = self._fit(parts)
        encoded = {name: tokenizer.encode(part) for name, part in parts.items()}
        windows = {name: self._windows(name, encoded[name]) for name in PARTS}
        texts = tokenizer.texts()
        per_token = len(parts["train"]) / len(encoded["train"])
        facts = Facts(
            name="text",
            kind="text",
            input_shape=(self.context,),
            task="language_modelling",
            features=texts,
            sizes={name: len(part) for name, part in windows.items()},
            notes=(*notes, _counted(text, len(texts), per_token), *told),
            vocabulary=len(texts),
            target_shape=(self.context,),
        )
        return Splits(facts, windows["train"], windows["val"], windows["test"], LanguagePreprocess(tokenizer), digest)

    def _check(self) -> None:
        if self.tokens not in TOKENS:
            raise ConfigError(f"data.tokens={self.tokens}: no such tokens{did_you_mean(self.tokens, TOKENS)}")
        if self.context < 1:
            raise ConfigError(f"data.context={self.context} must be at least 1; use for example data.context=64")
        for key, share in (("val", self.val), ("test", self.test)):
            if not 0 <= share < 1:
                raise ConfigError(f"data.{key}={share} is no share of the text; use for example data.{key}=0.1")
        if self.val + self.test >= 1:
            raise ConfigError(
                f"data.val={self.val} and data.test={self.test} leave nothing to train on; use for example 0.1 and 0.1"
            )

    def _cut(self, text: str) -> dict[str, str]:
        """The training part first, then validation, then test."""
        first = int(len(text) * (1 - self.val - self.test))
        second = int(len(text) * (1 - self.test)) if self.test else len(text)
        first = first if self.val else second
        if not first:
            raise DataError(
                f"{self.path or 'the text'} has {len(text)} characters, too few to train on; use a longer text"
            )
        return {"train": text[:first], "val": text[first:second], "test": text[second:]}

    def _fit(self, parts: dict[str, str]) -> tuple[Characters | BytePairs, list[str]]:
        """The tokenizer of the training part, and what it does not know of the others."""
        train, held_out = parts["train"], {name: parts[name] for name in ("val", "test")}
        if self.tokens == "bpe":
            pieces = [train[at : at + PIECE] for at in range(0, len(train), PIECE)]
            return BytePairs.fit(pieces, self.vocabulary), []
        tokenizer = Characters.fit(train, list(held_out.values()))
        known = set(tokenizer.symbols)
        strange = {name: sum(text.count(c) for c in set(text) - known) for name, text in held_out.items()}
        return tokenizer, [
            f"{count:,} characters of the {PARTS[name]} part do not occur in the training part: they share one token"
            for name, count in strange.items()
            if count
        ]

    def _windows(self, name: str, tokens: Tensor) -> Windows:
        """Windows side by side; those of the training part move together by up to a window's length each epoch."""
        spare = len(tokens) - self.context - 1  # last position where a window can start
        if len(tokens) and spare < 0:
            fitting = len(tokens) // 2
            raise DataError(
                f"{self.path or 'the text'}: its {PARTS[name]} part has {len(tokens):,} tokens, but data.context="
                f"{self.context} needs {self.context + 1}; use a longer text"
                + (f" or data.context={fitting}" if fitting else "")
            )
        slack = min(self.context - 1, spare) if name == "train" else 0
        starts = torch.arange(0, max(spare - slack + 1, 0), self.context)
        return Windows(tokens, starts, self.context, slack=slack)


def read_text(path: str | None) -> tuple[str, str, list[str]]:
    """A file, a folder of .txt files or Python's own reference text: the text, its SHA-256, and what there is to say.

    Raises:
        DataError: a file that cannot be read as text, or a folder without .txt files.
    """
    if path is None:
        text = own_text()
        note = f"without data.path: the reference text of Python {platform.python_version()} itself (pydoc_data)"
        return text, hashlib.sha256(text.encode()).hexdigest(), [note]
    place = Path(path).expanduser()
    if not place.is_dir():
        file = TextFile(place)
        return file.text, file.digest, [f"{place.name} is {file.encoding} text"]
    paths = sorted(found for found in place.rglob("*.txt") if found.is_file())
    if not paths:
        raise DataError(f"{place} has no .txt files; give a text file or a folder of them: data.path=FILE")
    files = [TextFile(found) for found in paths]
    digest = hashlib.sha256(" ".join(file.digest for file in files).encode()).hexdigest()
    notes = [f"{len(files):,} .txt files of {place.name} are joined in the order of their names"]
    return GAP.join(file.text for file in files), digest, notes + [note for file in files for note in file.note]


def own_text() -> str:
    """The reference text that ``help()`` shows, about half a million characters.

    Raises:
        DataError: this Python was installed without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python carries no reference text (pydoc_data); give a text: data.path=FILE") from None
    return GAP.join(topics[name] for name in sorted(topics))


def _counted(text: str, tokens: int, per_token: float) -> str:
    symbols = f"{len(text):,} characters, {len(set(text))} different ones"
    if per_token == 1:
        return f"{symbols}; {tokens} tokens of one character"
    return f"{symbols}; {tokens} byte-pair tokens of {per_token:.2f} characters on average"

"""From text to tokens and back: characters or byte pairs, learnt from the training part alone.

Byte pairs: R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016
(arXiv 1508.07909), on the bytes of UTF-8 as GPT-2 has them, so that every text can be written; by the ``tokenizers``
library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dlrun.errors import ConfigError, DataError

UNKNOWN = "\ufffd"  # what stands for a character that the training part does not have
BYTES = 256


class Tokenizer(Protocol):
    """Text to tokens and back."""

    def texts(self) -> tuple[str, ...]:
        """The characters that each token begins, in the order of the tokens; their lengths add up to the text's."""
        ...

    def encode(self, text: str) -> Tensor:
        """Tokens (N,) int64 of a text; raises DataError for a character that has none."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore_tokenizer`` builds it again."""
        ...


class Characters:
    """A token for each character.

    Args:
        symbols: the characters of the training part, each once, in order.
        unknown: whether there is one token more for all others.
    """

    def __init__(self, symbols: str, unknown: bool) -> None:
        self.symbols, self.unknown = symbols, unknown
        self._codes = _codes(symbols)

    @classmethod
    def fit(cls, train: str, others: Sequence[str]) -> Characters:
        """The characters of the training part; ``others`` only tell whether a token for unknown ones is needed."""
        symbols = set(train)
        return cls("".join(sorted(symbols)), any(set(other) - symbols for other in others))

    def texts(self) -> tuple[str, ...]:
        """Each character, and the replacement character where unknown ones have a token."""
        return (*self.symbols, UNKNOWN) if self.unknown else tuple(self.symbols)

    def encode(self, text: str) -> Tensor:
        """Tokens (N,) int64, one for each character.

        Raises:
            DataError: a character is not in the training part, and there is no token for unknown ones.
        """
        codes = _codes(text)
        places = np.searchsorted(self._codes, codes).clip(max=max(len(self._codes) - 1, 0))
        strange = self._codes[places] != codes
        if strange.any() and not self.unknown:
            raise DataError(
                f"the character {chr(codes[strange][0])!r} is not in the text the network was trained on; leave it out"
            )
        return torch.from_numpy(np.where(strange, len(self._codes), places).astype(np.int64))

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters side by side."""
        texts = self.texts()
        return "".join(texts[token] for token in tokens)

    def state(self) -> dict[str, Any]:
        """The characters."""
        return {"tokens": "characters", "symbols": self.symbols, "unknown": self.unknown}


class BytePairs:
    """Byte-level byte-pair tokens: 256 for the bytes, the others for the pairs that came most often.

    Args:
        definition: JSON of the ``tokenizers`` library.
    """

    def __init__(self, definition: str) -> None:
        from tokenizers import Tokenizer as Library

        self.definition = definition
        self._library = Library.from_str(definition)

    @classmethod
    def fit(cls, train: Sequence[str], vocabulary: int) -> BytePairs:
        """Merge the most frequent pairs of these texts until there are so many tokens, or no pair comes twice.

        Raises:
            ConfigError: fewer tokens than bytes.
        """
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if vocabulary < BYTES:
            raise ConfigError(f"data.vocabulary={vocabulary} must be at least {BYTES}, one token for each byte")
        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        library.train_from_iterator(train, trainer)
        return cls(library.to_str())

    def texts(self) -> tuple[str, ...]:
        """The characters that each token begins; one that is cut stands as a replacement character."""
        byte_of = _byte_of()
        spelled = sorted(self._library.get_vocab().items(), key=lambda item: item[1])
        return tuple(_begun(bytes(byte_of[sign] for sign in word)) for word, _ in spelled)

    def encode(self, text: str) -> Tensor:
        """Tokens (N,) int64; every text has some."""
        return torch.tensor(self._library.encode(text).ids, dtype=torch.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; bytes that are no character stand as replacement characters."""
        text: str = self._library.decode(list(tokens))
        return text

    def state(self) -> dict[str, Any]:
        """The library's own definition."""
        return {"tokens": "bpe", "definition": self.definition}


def restore_tokenizer(state: dict[str, Any]) -> Characters | BytePairs:
    """The inverse of ``state``."""
    if state["tokens"] == "characters":
        return Characters(state["symbols"], state["unknown"])
    return BytePairs(state["definition"])


def _codes(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _byte_of() -> dict[str, int]:
    """The byte each sign of a byte-level vocabulary stands for (GPT-2's table: printable ones for themselves)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(BYTES + i): byte for i, byte in enumerate(rest)}


def _begun(content: bytes) -> str:
    """The characters that begin in these bytes: those that only go on in them are counted where they began."""
    start = next((i for i, byte in enumerate(content) if byte & 0xC0 != 0x80), len(content))
    return content[start:].decode("utf-8", "replace")

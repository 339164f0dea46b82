"""Short texts as numbers: token 0 fills up short rows, token 1 stands for whatever the training part does not have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dlrun.data.tokenizing import BytePairs

PADDING, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unknown>")
# A word with the apostrophes within it ("don't"), an ending cut off from its word ("'s"), or any other sign.
WORD = re.compile(r"\w+(?:['’]\w+)*|['’]\w+|[^\w\s]")
SPLITS: dict[str, Callable[[str], list[str]]] = {"words": WORD.findall, "characters": list}


class Coder(Protocol):
    """Splits a text into tokens and numbers them.

    Attributes:
        kind: ``words``, ``characters`` or ``byte pairs``.
    """

    kind: str

    @property
    def size(self) -> int:
        """How many tokens there are, with padding and the unknown one."""
        ...

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's tokens, none of them padding."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON-able values from which ``restore_coder`` builds it again."""
        ...


class Entries:
    """A list of words or of characters; what is not in it is unknown.

    Args:
        kind: ``words`` or ``characters``.
        entries: token 2, token 3, ...
        lower: take capitals for small letters.
    """

    def __init__(self, kind: str, entries: Sequence[str], lower: bool) -> None:
        self.kind, self.lower = kind, lower
        self._numbers = {entry: number for number, entry in enumerate(entries, len(SPECIAL))}

    @classmethod
    def fit(cls, kind: str, train: Sequence[str], most: int, lower: bool) -> Entries:
        """The ``most`` frequent ones of the training texts; among equals by alphabet."""
        counts = Counter(token for text in train for token in SPLITS[kind](text.lower() if lower else text))
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(kind, ranked[:most], lower)

    @property
    def size(self) -> int:
        """How many tokens there are, with padding and the unknown one."""
        return len(self._numbers) + len(SPECIAL)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's tokens."""
        tokens = SPLITS[self.kind](text.lower() if self.lower else text)
        return [self._numbers.get(token, UNKNOWN) for token in tokens]

    def state(self) -> dict[str, Any]:
        """The list, in order."""
        return {"kind": self.kind, "entries": list(self._numbers), "lower": self.lower}


class Pairs:
    """Byte pairs, which spell every word; their numbers begin after the reserved ones.

    Args:
        pairs: the tokenizer.
        lower: take capitals for small letters.
    """

    kind = "byte pairs"

    def __init__(self, pairs: BytePairs, lower: bool) -> None:
        self.pairs, self.lower = pairs, lower

    @property
    def size(self) -> int:
        """How many tokens there are, with padding and the unknown one."""
        return len(self.pairs.texts()) + len(SPECIAL)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's tokens."""
        tokens: list[int] = self.pairs.encode(text.lower() if self.lower else text).tolist()
        return [token + len(SPECIAL) for token in tokens]

    def state(self) -> dict[str, Any]:
        """The tokenizer's own definition."""
        return {"kind": self.kind, "definition": self.pairs.definition, "lower": self.lower}


def fit_coder(tokens: str, train: Sequence[str], most: int, lower: bool) -> Coder:
    """Learn ``words``, ``characters`` or ``bpe`` from the training texts."""
    if tokens == "bpe":
        return Pairs(BytePairs.fit([text.lower() if lower else text for text in train], most), lower)
    return Entries.fit(tokens, train, most, lower)


def restore_coder(state: dict[str, Any]) -> Coder:
    """The inverse of ``state``."""
    if state["kind"] == Pairs.kind:
        return Pairs(BytePairs(state["definition"]), state["lower"])
    return Entries(state["kind"], state["entries"], state["lower"])

"""What the processes of a run say to one another outside the training: short texts in the store that they met in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

FOLDER = "DLRUN_LAUNCH"  # where the launcher reads which run it was and whether somebody has said why it ended
PATIENCE = timedelta(days=1)  # to read data or to train a classifier first may take long; a death is noticed elsewhere
POLL = 0.1


class Store(Protocol):
    """What is used of torch's key-value stores."""

    def set(self, key: str, value: str) -> None:
        """Put a value under a key."""
        ...

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        ...

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Put a value where ``expected`` is (empty: nothing); what is there afterwards."""
        ...


class Messages:
    """Texts under keys, for all processes of the run. Nothing is ever unpickled.

    Args:
        store: of the process group.
        rank: this process's number.
        lost: names a process that has ended without a word, if one has.
    """

    def __init__(self, store: Store, rank: int, lost: Callable[[], int | None]) -> None:
        self._store, self._rank, self._lost = store, rank, lost

    def tell(self, key: str, text: str) -> None:
        """Put a text where every process can read it."""
        self._store.set(f"dlrun/{key}", text)

    def heard(self, key: str) -> str | None:
        """The text under a key, or None when there is none (or nobody keeps the store any more)."""
        with suppress(RuntimeError):
            if self._store.check([f"dlrun/{key}"]):
                return str(self._store.get(f"dlrun/{key}").decode())
        return None

    def wait(self, key: str) -> str | None:
        """Wait for a text; None when a process failed or vanished first."""
        ends = time.monotonic() + PATIENCE.total_seconds()
        while time.monotonic() < ends:
            text = self.heard(key)
            if text is not None or self.heard("failure") is not None or self._lost() is not None:
                return text
            time.sleep(POLL)
        return None

    def fail(self, sentence: str, code: int) -> bool:
        """Say why this process fails; whether it is the first one to say so, and is to tell the user."""
        mine = json.dumps({"rank": self._rank, "sentence": sentence, "code": code})
        try:
            won = bool(self._store.compare_set("dlrun/failure", "", mine).decode() == mine)
        except RuntimeError:  # nobody keeps the store any more
            won = self._rank == 0
        if won:
            note("said", sentence)
        return won

    def failure(self) -> dict[str, Any] | None:
        """What another process failed of: rank, sentence, code."""
        text = self.heard("failure")
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return None if found is None or found["rank"] == self._rank else found


def note(name: str, text: str) -> None:
    """Leave a text for the launcher, where there is one."""
    folder = os.environ.get(FOLDER)
    if folder:
        with suppress(OSError):
            (Path(folder) / name).write_text(text)

"""The errors a user can cause. Each is one sentence: what, where, the nearest right name, the command that works.

Each class has the exit code of the process; anything else that escapes is a bug of dlrun and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DlrunError(Exception):
    """A mistake with a plain sentence for the user; never shown with a traceback unless ``--debug``."""

    exit_code = 1


class ConfigError(DlrunError):
    """A group, option, key, type or pairing that cannot be used."""

    exit_code = 2


class DataError(DlrunError):
    """A data file that is missing, empty, damaged or not what was promised; names the file and the row."""

    exit_code = 3


class CheckpointError(DlrunError):
    """A checkpoint that is missing, damaged or does not fit."""

    exit_code = 4


class LockedError(DlrunError):
    """Another process is working on the same run."""

    exit_code = 5


class DivergedError(DlrunError):
    """The loss or a weight became NaN or infinite."""

    exit_code = 6


class StorageError(DlrunError):
    """The disk is full, read-only or failing."""

    exit_code = 7


class MemoryExhaustedError(DlrunError):
    """The device or the machine has too little memory."""

    exit_code = 8


class RefusedError(DlrunError):
    """Refused for safety: a target outside the allow-list, a file of another user."""

    exit_code = 9


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name closest to ``name``, or None when none is close."""
    known = list(names)
    folded = {n.lower().replace("-", "_"): n for n in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'adam'?"`` or, when nothing is close, the choices there are."""
    known = sorted(names)
    close = nearest(name, known)
    if close:
        return f"; did you mean '{close}'?"
    return f"; there are: {', '.join(known)}" if known else ""

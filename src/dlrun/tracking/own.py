"""A mark that only this user's dlrun can make: it tells files that were written here from those of a stranger.

The mark is an HMAC with a key of the user's, in ``$XDG_STATE_HOME/dlrun/key`` (``~/.local/state``), made when it is
first needed. Whoever can read the key can make the mark: it is no better than the rights on the user's home.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

_SIZE = 32


def mark(value: Any) -> str:
    """The mark of a value that can be written as JSON; empty where this user has no place for a key."""
    key = _key(make=True)
    return "" if key is None else _mark(key, value)


def is_own(value: Any, found: object) -> bool:
    """Whether ``found`` is this user's mark of the value."""
    key = _key(make=False)
    return key is not None and isinstance(found, str) and hmac.compare_digest(_mark(key, value), found)


def _mark(key: bytes, value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(make: bool) -> bytes | None:
    home = os.environ.get("XDG_STATE_HOME")
    try:
        file = (Path(home) if home else Path.home() / ".local" / "state") / "dlrun" / "key"
        if make and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):  # another process was faster
                fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                os.write(fd, secrets.token_bytes(_SIZE))
                os.close(fd)
        key = file.read_bytes()
    except (OSError, RuntimeError):  # no home, or none that can be written
        return None
    return key if len(key) == _SIZE else None

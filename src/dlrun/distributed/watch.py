"""A thread that notices when another process of the run, or the launcher, is gone.

Where a process dies, gloo's sockets fail at once, but a process that waits for a GPU that waits for a dead one waits
for ten minutes and heeds no signal. So a thread looks twice a second whether the others of its machine still live, and
where the main thread cannot end the process, it does. A launcher that is killed takes nothing with it: its processes
save and end as if they had got its signal.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

INTERVAL = 0.5
GRACE = 3.0  # seconds for the main thread to end by itself
KILLED = 137


def lives(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class DeathWatch:
    """Looks whether another process of this machine has died, until `stop`; ends this one if it cannot by itself.

    Args:
        others: process number by rank, without this process.
        last_words: called before this process is ended from here, with the lost rank.
        parent: process number of the launcher.
    """

    def __init__(
        self,
        others: Mapping[int, int],
        last_words: Callable[[int], None],
        parent: int,
    ) -> None:
        self.others, self.last_words, self.parent = dict(others), last_words, parent
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dlrun-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """The main thread goes on by itself from here."""
        self._over.set()

    def lost(self) -> int | None:
        """The rank of a process that has ended, or None; all of them stop watching before the first one leaves."""
        for rank, pid in self.others.items():
            if not lives(pid):
                return rank
        return None

    def _run(self) -> None:
        orphan = False
        while not self._over.wait(INTERVAL):
            if not orphan and os.getppid() != self.parent:
                orphan = True
                with suppress(ProcessLookupError):
                    os.kill(os.getpid(), signal.SIGTERM)
            rank = self.lost()
            if rank is None or self._over.wait(GRACE):
                continue
            self.last_words(rank)
            os._exit(KILLED)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within so many seconds."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True

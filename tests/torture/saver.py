"""A process to kill: saves small checkpoints without torch and says on stdout what has been acknowledged.

saver.py SOURCE FOLDER SAVES MODE, MODE being good, prune_first (deletes before it writes) or no_sync.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    source, folder, saves, mode = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    sys.path.insert(0, source)
    from dlrun.errors import StorageError
    from dlrun.tracking.durable import Disk
    from dlrun.training.container import Entry, pack
    from dlrun.training.shelf import Shelf

    class NeverSyncs(Disk):
        def sync(self, fd: int) -> None:
            pass

    shelf = Shelf(folder, disk=NeverSyncs() if mode == "no_sync" else Disk())
    refused = False
    for step in range(1, saves + 1):
        chunks = pack([Entry("weight", "U8", (5000,), bytes([step]) * 5000)], "{}", step)
        try:
            if mode == "prune_first":
                for path in shelf.steps().values():
                    path.unlink()
            shelf.save(step, chunks)
            print(f"saved {step}", flush=True)
            shelf.save_best(chunks)
            print(f"best {step}", flush=True)
        except StorageError as error:
            refused = True
            print(f"refused {error}", flush=True)
    return StorageError.exit_code if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())

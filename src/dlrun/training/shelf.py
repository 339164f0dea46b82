"""The shelf of a run's checkpoints: which files are kept, and which one is the newest that verifies.

Files are immutable and named by their step; there is no pointer to go stale. A new file is durable before an old one
goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dlrun.errors import CheckpointError, StorageError
from dlrun.tracking.durable import DISK, Disk, replace, sweep_temporaries
from dlrun.training.container import load

_NAME = re.compile(r"step-(\d{8,})\.ckpt")


class Shelf:
    """Checkpoint files in one folder: the ``keep`` newest steps and the best."""

    def __init__(self, folder: Path, keep: int = 2, disk: Disk = DISK) -> None:
        self.folder = folder
        self.keep = keep
        self.disk = disk

    @property
    def best_path(self) -> Path:
        """Where the best checkpoint is, if there is one."""
        return self.folder / "best.ckpt"

    def save(self, step: int, chunks: Sequence[bytes | memoryview]) -> Path:
        """Write the file of ``step`` durably, then prune; raises StorageError and leaves the earlier files alone."""
        path = self.folder / f"step-{step:08d}.ckpt"
        self._make_folder()
        replace(path, chunks, self.disk)
        self._prune(step)
        return path

    def save_best(self, chunks: Sequence[bytes | memoryview]) -> Path:
        """Put a new best in the place of the old one, durably."""
        self._make_folder()
        replace(self.best_path, chunks, self.disk)
        return self.best_path

    def steps(self) -> dict[int, Path]:
        """Step and file, oldest first; names only, nothing is opened."""
        try:
            found = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        except FileNotFoundError:
            return {}
        return dict(sorted((int(match[1]), path) for match, path in found if match))

    def newest(self) -> tuple[bytes, dict[str, str], Path, list[str]] | None:
        """Bytes, metadata and path of the newest file that verifies, and a sentence for each newer one that does not.

        None when there is no file at all; raises CheckpointError when there are some and none is good.
        """
        rejected: list[str] = []
        for step, path in reversed(self.steps().items()):
            try:
                data, metadata = load(path)
                _require_step(path, step, metadata)
            except CheckpointError as error:
                rejected.append(str(error))
            else:
                return data, metadata, path, rejected
        if rejected:
            raise CheckpointError(f"no checkpoint in {self.folder} can be used: {'; '.join(rejected)}")
        return None

    def sweep_temporaries(self) -> None:
        """Remove what killed writers left; only for the holder of the run's lock."""
        sweep_temporaries(self.folder, self.disk)

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.disk.sync_folder(self.folder.parent)
        except OSError as error:
            raise StorageError(f"cannot make the folder {self.folder}: {error.strerror or error}") from error

    def _prune(self, step: int) -> None:
        """Keep the newest steps up to ``step``; later ones belong to a future that this run has left behind.

        The checkpoint just written is safe whatever happens here, so a refusal is left for the next save to repair.
        """
        with suppress(OSError):
            steps = self.steps()
            kept = [number for number in steps if number <= step][-self.keep :]
            doomed = [path for number, path in steps.items() if number not in kept]
            for path in doomed:
                self.disk.remove(path)
            if doomed:
                self.disk.sync_folder(self.folder)


def _require_step(path: Path, step: int, metadata: dict[str, str]) -> None:
    if metadata.get("step", str(step)) != str(step):
        raise CheckpointError(f"the checkpoint {path} holds step {metadata['step'][:20]}, not the step of its name")

"""Where the workers of a sweep run: in processes of this machine, in a job array of Slurm, or in tasks of Ray.

A launcher starts workers and tells how many there are still; it knows nothing of points, trials or storages. A worker
is a command that opens the sweep's folder and its storage, runs points until none is left, and ends with 0. It has to
take SIGTERM as "save and stop". All of them share the folder and the storage, nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dlrun.errors import ConfigError, did_you_mean

NAMES = ("local", "ray", "slurm")


class Workers(Protocol):
    """Workers that were started."""

    keep: bool  # whether they go on when the master is told to stop

    def alive(self) -> int | None:
        """How many have not ended, those that still wait for a place included; None where nobody can tell now."""
        ...

    def problems(self) -> list[str]:
        """One sentence for each worker that ended badly or will never start, with the place of its log.

        A worker that ended because of ``cancel`` is not one of them. Sentences stay the same between calls.
        """
        ...

    def cancel(self) -> None:
        """Tell all to save and stop; those that did not start yet never will. Returns at once."""
        ...


class Launcher(Protocol):
    """Starts workers somewhere. Whatever can be checked before the sweep begins is checked when it is made."""

    def start(self, folder: Path, count: int) -> Workers:
        """Start workers for the sweep in ``folder`` until there are ``count``.

        Raises:
            ConfigError: the machine, the cluster or its queue does not take them.
        """
        ...


Command = Callable[[Path], Sequence[str]]


def worker_command(folder: Path) -> list[str]:
    """The words that start one worker of the sweep in ``folder``, with this Python."""
    return [sys.executable, "-m", "dlrun", "sweep", "--worker", str(folder.resolve())]


def make_launcher(name: str, options: Mapping[str, Any], command: Command = worker_command) -> Launcher:
    """The launcher of that name (one of ``NAMES``) with the keys that were given as ``launcher.KEY``.

    Raises:
        ConfigError: there is no such launcher, a key is wrong, or a program or package that it needs is missing.
    """
    if name == "local":
        from dlrun.sweeps.launchers.local import LocalLauncher

        return LocalLauncher(options, command)
    if name == "slurm":
        from dlrun.sweeps.launchers.slurm import SlurmLauncher

        return SlurmLauncher(options, command)
    if name == "ray":
        from dlrun.sweeps.launchers.ray import RayLauncher

        return RayLauncher(options, command)
    raise ConfigError(f"launcher={name}: there is no launcher '{name}' of workers{did_you_mean(name, NAMES)}")

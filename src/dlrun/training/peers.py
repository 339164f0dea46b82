"""The other processes of a run, as the loop sees them: what only one process can know, all of them agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dlrun.data.sharing import Keep, as_it_lies
from dlrun.training.signals import StopFlag

if TYPE_CHECKING:
    from dlrun.tracking.run_directory import RunDirectory
    from dlrun.training.callbacks import Callback, Saver
    from dlrun.training.checkpoint import Checkpoints
    from dlrun.training.trainer import Trainer


class Peers(Protocol):
    """The processes of a run, this one included.

    Every process asks the same questions at the same places of the loop, for some of the answers need all of them.

    Attributes:
        rank: this process's number, from 0; the first one writes, prints and saves.
        size: how many there are.
    """

    rank: int
    size: int

    def begin(self, run: RunDirectory, seed: int, config: str, checkpoint: Path | None = None) -> None:
        """Tell the others what is trained, in which run, and from which checkpoint; called by the first process."""
        ...

    def in_turn(self, work: Callable[[bool], None], stop: StopFlag) -> None:
        """Let the first process do something (True), and then the others find it done (False).

        Where a signal has ended it and raised ``stop``, the others' flags are raised, and they are not called.
        """
        ...

    def keep(self) -> Keep:
        """Where resident data lies."""
        ...

    def sink(self, checkpoints: Checkpoints) -> Checkpoints:
        """Where this process's checkpoints go; the first one writes them."""
        ...

    def watchers(self, usual: Sequence[Callback], saver: Saver, own: Sequence[Callback]) -> list[Callback]:
        """The callbacks of this process: those that write and report belong to the first one."""
        ...

    def agreed(self, own: StopFlag) -> StopFlag:
        """The flag that is raised everywhere at the same question once a signal has raised any process's own."""
        ...

    def clock(self, seconds: float) -> float:
        """The training time, as the first process has it; ``seconds`` is this one's own."""
        ...

    def ending(self, reason: str | None) -> str | None:
        """Why a callback of the first process wants the run to end, if one does; ``reason`` is this one's own."""
        ...

    def same(self, metrics: dict[str, float]) -> dict[str, float]:
        """What an evaluation found, as the first process found it."""
        ...

    def spread(self, trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's state as this process is to load it."""
        ...


class Alone:
    """A run of one process: nobody to agree with."""

    rank = 0
    size = 1

    def begin(self, run: RunDirectory, seed: int, config: str, checkpoint: Path | None = None) -> None:
        """There is nobody to tell."""

    def in_turn(self, work: Callable[[bool], None], stop: StopFlag) -> None:
        """It is the first one's turn."""
        work(True)

    def keep(self) -> Keep:
        """Data lies where it was read."""
        return as_it_lies

    def sink(self, checkpoints: Checkpoints) -> Checkpoints:
        """The files themselves."""
        return checkpoints

    def watchers(self, usual: Sequence[Callback], saver: Saver, own: Sequence[Callback]) -> list[Callback]:
        """All of them."""
        return [*usual, saver, *own]

    def agreed(self, own: StopFlag) -> StopFlag:
        """The process's own flag."""
        return own

    def clock(self, seconds: float) -> float:
        """The process's own time."""
        return seconds

    def ending(self, reason: str | None) -> str | None:
        """The process's own reason."""
        return reason

    def same(self, metrics: dict[str, float]) -> dict[str, float]:
        """The process's own values."""
        return metrics

    def spread(self, trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
        """The state as it is."""
        return state


ALONE = Alone()

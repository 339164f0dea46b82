"""The recipe of every process of a run but the first: the same training, of which nothing is written or printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from dlrun.build import check
from dlrun.resume import take_up
from dlrun.run import finish
from dlrun.session import open_session
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.checkpoint import read
from dlrun.training.reporters import Silent
from dlrun.training.signals import watch_signals

if TYPE_CHECKING:
    from dlrun.distributed.group import Together


class Unwritten:
    """The directory of a run that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history, self.checkpoints, self.config = path / "history.jsonl", path / "checkpoints", path / "config.yaml"

    def record(self) -> dict[str, Any]:
        """Nothing is known: the first process reads it."""
        return {}

    def write_record(self, **changes: Any) -> None:
        """Nothing."""


def follow(peers: Together, trusted: Sequence[str] = ()) -> None:
    """Do what the first process does, as it says: with its configuration, from its checkpoint.

    Raises:
        PeerLostError: the first process ended before it said anything.
        DlrunError: as in the first process.
    """
    order = peers.order()
    if order is None:
        return
    with watch_signals() as own:
        stop = peers.agreed(own)
        config = cast(DictConfig, OmegaConf.create(order["config"]))
        OmegaConf.set_struct(config, True)
        experiment = check(config, trusted)
        state = read(Path(order["checkpoint"])) if order["checkpoint"] else None
        at, learnt = (state["step"], state["task"]) if state else (0, None)
        run = cast(RunDirectory, Unwritten(Path(order["run"])))
        session = open_session(experiment, run, Silent(), stop, at, learnt, peers=peers)
        if state is not None:
            take_up(session, state, Silent())
        finish(session, session.trainer.fit(), Silent(), stop)

"""The same runs alone and as a pack: sessions made by the recipe of ``dlrun train``, and how to compare their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dlrun.build import check
from dlrun.config import compose
from dlrun.loading import Loaded, load
from dlrun.packing.pack import Pack
from dlrun.session import Session, open_session, prepare_process
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.callbacks import Callback
from dlrun.training.randomness import random_state, restore_random_state
from dlrun.training.reporters import Silent
from dlrun.training.signals import StopFlag

# 100 steps on 320 pictures of 8 x 8: batches of 32, of 20 at the end of each epoch.
COMMON = (
    "data=digits", "trainer.limit.train=308", "trainer.limit.val=60", "trainer.limit.test=20", "trainer.device=cpu",
    "trainer.batch_size=32", "trainer.steps=100", "trainer.evaluate_steps=50", "tracking=minimal", "tracking.every=20",
    "trainer.checkpoint_every=100",  # by steps, for a checkpoint looks whether the weights are finite
)  # fmt: skip
MLP = ("model=mlp", "model.hidden=[12]", "activation=tanh")


@dataclass
class Side:
    """Runs that were trained one way.

    Attributes:
        sessions: of each lane.
        randoms: the state of each lane's random streams at its end.
        ends: why each lane ended, or the error that ended it.
    """

    sessions: list[Session] = field(default_factory=list)
    randoms: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[int, str | BaseException] = field(default_factory=dict)

    def weights(self, lane: int) -> dict[str, Tensor]:
        """All tensors of a lane's network."""
        return self.sessions[lane].trainer.model.state_dict()

    def rows(self, lane: int) -> list[dict[str, Any]]:
        """A lane's history without what the clock says."""
        rows = self.sessions[lane].history.rows()
        return [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in rows]


@cache
def _composed(words: tuple[str, ...]) -> DictConfig:
    return compose(list(words))


@cache
def composed(words: tuple[str, ...], lane: str) -> DictConfig:
    """A lane's configuration. To compose takes most of a test's time, so keys that are no groups are set afterwards."""
    own = lane.split()
    groups = [word for word in own if "." not in word.partition("=")[0]]
    values = OmegaConf.from_dotlist([word for word in own if word not in groups])
    whole = OmegaConf.merge(_composed((*words, *groups)), values)
    assert isinstance(whole, DictConfig)
    OmegaConf.set_readonly(whole, True)  # it is handed out again
    return whole


def opened(
    config: DictConfig, folder: Path, loaded: Loaded | None = None, callbacks: Sequence[Callback] = ()
) -> Session:
    """A run that is ready to train."""
    experiment = check(config)
    prepare_process(experiment)
    loaded = (loaded or load(experiment)).under(experiment.settings.seed)
    run = RunDirectory.create(folder, "run")
    return open_session(experiment, run, Silent(), StopFlag(), callbacks=callbacks, loaded=loaded)


def alone(
    words: tuple[str, ...], lanes: Sequence[str], folder: Path, callbacks: Sequence[Sequence[Callback]] = ()
) -> Side:
    """Each lane trained by its own Trainer."""
    side = Side()
    for number, lane in enumerate(lanes):
        session = opened(composed(words, lane), folder, callbacks=callbacks[number] if callbacks else ())
        side.sessions.append(session)
        try:
            side.ends[number] = session.trainer.fit()
        except Exception as error:
            side.ends[number] = error
        side.randoms.append(random_state())
    return side


def ready(
    words: tuple[str, ...], lanes: Sequence[str], folder: Path, callbacks: Sequence[Sequence[Callback]] = ()
) -> tuple[Side, Pack]:
    """The lanes as one pack that has not begun."""
    side, loaded = Side(), load(check(composed(words, lanes[0])))
    for number, lane in enumerate(lanes):
        side.sessions.append(opened(composed(words, lane), folder, loaded, callbacks[number] if callbacks else ()))
        side.randoms.append(random_state())

    def ended(lane: int, what: str | BaseException) -> None:
        side.ends[lane], side.randoms[lane] = what, random_state()

    return side, Pack([session.trainer for session in side.sessions], list(side.randoms), ended)


def together(
    words: tuple[str, ...], lanes: Sequence[str], folder: Path, callbacks: Sequence[Sequence[Callback]] = ()
) -> Side:
    """The lanes trained as one pack; the process's own random streams are as before."""
    before = random_state()
    side, pack = ready(words, lanes, folder, callbacks)
    pack.train()
    restore_random_state(before)
    return side


def distance(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, of all elements together."""
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=1e-12))


def distances(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """The distance of each tensor of numbers that are not whole; whole ones must be equal."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensor.is_floating_point() or torch.equal(found[name], tensor), name
    return {name: distance(found[name], tensor) for name, tensor in wanted.items() if tensor.is_floating_point()}

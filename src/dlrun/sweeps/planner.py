"""From points to trials: their configs, their folders, who packs with whom, and what is there already."""

from __future__ import annotations

import functools
import math
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dlrun.build import Experiment, Found, check
from dlrun.run import describe_experiment
from dlrun.sweeps.nouns import Settings, Trial
from dlrun.sweeps.parties import Claimed
from dlrun.sweeps.points import Composer
from dlrun.sweeps.reuse import Finished
from dlrun.tracking.sweep_directory import SweepDirectory

MOST_LANES = 64
FEWEST_LANES = 4  # below it a pack is not worth the seconds it takes to measure whether it pays
FILES, SPARE_FILES = 6, 200  # open files of a lane, and of the process beside
MEMORY_SHARE = 0.3  # of what is free, for the packs of all workers together
# Of a lane: weights, gradients, two numbers of the optimizer, a copy of the best network, and what a checkpoint takes.
COPIES = 8
ACTIVATIONS = 3  # of each layer's output: kept for the backward pass, its gradient, something in between
# Numbers of these groups may differ within a pack; in the others only those that are not whole.
NUMBERS = ("optimizer", "schedule")


class TrialPlanner:
    """Makes the trials of one sweep.

    Args:
        directory: the sweep's.
        composer: of its frozen config files.
        settings: the sweep's.
        trusted: packages that a config may name.
        command: words that every trial's own command line has beside its overrides.
        finished: runs that may be taken over, or None.
        trials: of the sweep in all.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        composer: Composer,
        settings: Settings,
        *,
        trusted: Sequence[str] = (),
        command: Sequence[str] = (),
        finished: Finished | None = None,
        trials: int = 1,
    ) -> None:
        self.directory, self.composer, self.settings = directory, composer, settings
        self.trusted, self.command, self.finished = tuple(trusted), tuple(command), finished
        self.share = math.ceil(trials / settings.workers)  # no worker shall wait while another has all trials
        self.why_apart: dict[str, str] = {}
        self._found = Found()
        self._most: dict[str, int] = {}

    @property
    def ahead(self) -> int:
        """How many trials should wait before a job is started.

        A search that learns is asked for one point at a time, unless packs are wanted at any price: of points that are
        proposed together none knows how the others ended. The seeds of one point may make a pack all the same.
        """
        if self.settings.launcher == "packed":
            return self._lanes()
        learns = self.settings.sampler in ("tpe", "cmaes") or self.settings.pruner != "none"
        return self._lanes() if self.settings.launcher == "auto" and not learns else 1

    def trial(self, claimed: Claimed, seed: int) -> Trial:
        """The trial of a point under a seed; raises DlrunError when it cannot be composed."""
        config = self.composer.config(claimed.point, seed)
        words = ("dlrun", "train", *claimed.point.overrides, f"trainer.seed={seed}", *self.command)
        folder = self.directory.trial(claimed.number, seed)
        return Trial(claimed.number, seed, folder, OmegaConf.to_yaml(config), words, dict(claimed.point.values))

    def pack(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """The first trial with those of the others that train in one pack with it, or alone."""
        first, *others = trials
        if self.settings.launcher not in ("auto", "packed"):
            return [first]
        key = structure(first.config)
        if key in self.why_apart:
            return [first]
        experiment = check(_config(first), self.trusted, self._found)
        if any("does not pack" in why for _, _, why in experiment.choices):
            self.why_apart[key] = "its model or algorithm does not pack"
        elif experiment.settings.budget is not None:
            self.why_apart[key] = "trainer.budget is a time of its own for each trial"
        if key in self.why_apart:
            return [first]
        alike = [first, *(trial for trial in others if structure(trial.config) == key)]
        if key not in self._most:
            self._most[key] = most_lanes(experiment, self.settings.workers)
        alike = alike[: min(self._lanes(), self._most[key])]
        fewest = FEWEST_LANES if self.settings.launcher == "auto" else 2
        return alike if len(alike) >= fewest else [first]

    def apart(self, trials: Sequence[Trial], reason: str) -> None:
        """Remember that trials like these do not train together."""
        self.why_apart[structure(trials[0].config)] = reason

    def reuse(self, trial: Trial) -> Path | None:
        """A finished run that is equal to the trial."""
        if self.finished is None:
            return None
        found = self.finished.find(check(_config(trial), self.trusted, self._found))
        return None if found == trial.folder else found

    def _lanes(self) -> int:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(1, min(self.settings.lanes or MOST_LANES, self.share, (files - SPARE_FILES) // FILES))


@functools.lru_cache(4096)
def structure(config: str) -> str:
    """What two trials must have in common to be worth trying in one pack: everything but numbers."""
    content: Any = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    return repr(_masked(content, ()))


def _masked(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _masked(inner, (*path, str(name))) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, path) for inner in value]
    if path == ("trainer", "seed"):
        return "a seed"
    if isinstance(value, bool) or not isinstance(value, int | float) or path[:1] in (("data",), ("trainer",)):
        if path in (("trainer", "clip_norm"), ("trainer", "clip_value"), ("trainer", "ema")):
            return "a number" if value else value
        return value
    # Zero often leaves something out altogether, as a dropout layer.
    plain = path[:1] in tuple((group,) for group in NUMBERS) or isinstance(value, float)
    return "a number" if plain and value else value


def most_lanes(experiment: Experiment, workers: int) -> int:
    """How many lanes the memory holds, by the size of the weights and of every layer's output."""
    layers = describe_experiment(experiment).layers
    weights = sum(row.parameters for row in layers) * 4 * COPIES
    outputs = sum(math.prod(row.output_shape) for row in layers if row.output_shape)
    lane = weights + outputs * experiment.batch_size * 4 * ACTIVATIONS
    return max(1, int(free_memory(experiment.device) * MEMORY_SHARE / workers / max(lane, 1)))


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    free = [int(kilobytes) * 1024 for kilobytes in limits]
    most, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")  # of a container
    if most and used and most[0].isdigit():
        free.append(int(most[0]) - int(used[0]))
    return max(0, min(free, default=4 * 2**30))


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:  # not told by this system
        return []


def _config(trial: Trial) -> DictConfig:
    config = OmegaConf.create(trial.config)
    assert isinstance(config, DictConfig), "a configuration is a table"
    OmegaConf.set_struct(config, True)
    return config

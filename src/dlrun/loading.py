"""The data of an experiment, ready for training: its parts, limited as asked, and the batches of each."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.utils.data import Subset

from dlrun.build import Experiment, limited
from dlrun.data import Examples, Part, Splits
from dlrun.data.augment import check_fits
from dlrun.data.batches import Batches
from dlrun.data.sharing import Keep, as_it_lies
from dlrun.data.streaming import WHOLE
from dlrun.data.windows import Windows


@dataclass(frozen=True)
class Loaded:
    """The parts of a data set and their batches; ``val`` and ``test`` are None where they are empty."""

    splits: Splits
    train: Batches
    val: Batches | None
    test: Batches | None
    seconds: float

    def under(self, seed: int) -> Loaded:
        """The same examples, not copied, with the training order of another seed."""
        return replace(self, train=self.train.under(seed))


def load(experiment: Experiment, shard: tuple[int, int] = WHOLE, keep: Keep = as_it_lies) -> Loaded:
    """Read the data of an experiment and make its batches; of training batches the part ``shard`` of a process.

    ``keep`` may replace a tensor by one copy for all processes.

    Raises:
        DataError: the data cannot be read.
    """
    started = time.perf_counter()
    splits = _kept(limit_parts(experiment.data.load(), experiment.settings.limit), keep)
    train, val, test = (make_batches(experiment, splits, part, shard, keep) for part in PARTS)
    assert train is not None, "a data set always has a training part"
    return Loaded(splits, train, val, test, time.perf_counter() - started)


def limit_parts(splits: Splits, limit: dict[str, float | None]) -> Splits:
    """The parts that ``trainer.limit`` leaves, chosen at random once and for all."""
    parts: dict[str, Any] = {
        name: _limited_part(getattr(splits, name), limit.get(name)) for name in ("train", "val", "test")
    }
    sizes = {name: len(cast(Sized, part)) for name, part in parts.items()}
    return replace(splits, facts=replace(splits.facts, sizes=sizes), **parts)


def _limited_part(part: Part, limit: float | None) -> Part:
    size = len(cast(Sized, part))
    count = limited(size, limit) if size else 0
    if count == size:
        return part
    if isinstance(part, Windows):  # one after the other, as a text goes on
        return part.take(torch.arange(count))
    rows = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count].sort().values
    if isinstance(part, Examples):
        return Examples(part.inputs[rows], part.targets[rows])
    return Subset(part, rows.tolist())


def _kept(splits: Splits, keep: Keep) -> Splits:
    """The same parts, where tensors are held one copy for all processes."""
    parts = {name: getattr(splits, name) for name in PARTS}
    held = {name: part for name, part in parts.items() if isinstance(part, Examples) and len(part)}
    kept: dict[str, Any] = {name: Examples(keep(part.inputs), part.targets) for name, part in held.items()}
    return replace(splits, **kept)


def make_batches(
    experiment: Experiment, splits: Splits, name: str, shard: tuple[int, int] = WHOLE, keep: Keep = as_it_lies
) -> Batches | None:
    """Batches of a part, None when it is empty. Evaluation takes large batches: they cost no accuracy."""
    part: Part = getattr(splits, name)
    size = len(cast(Sized, part))
    if not size:
        return None
    settings = experiment.settings
    training = name == "train"
    augment = getattr(experiment.data, "augment", None) if training else None
    check_fits(augment, splits.facts.input_shape)
    workers = 0 if isinstance(part, (Examples, Windows)) else _workers(settings.workers, settings.devices)
    return Batches(
        part,
        preprocess=splits.preprocess,
        batch_size=min(size, experiment.batch_size if training else _evaluation_batch(experiment)),
        device=experiment.device,
        seed=settings.seed,
        augment=augment,
        workers=workers,
        consecutive=experiment.consecutive,
        shard=shard if training else WHOLE,
        keep=keep,
    )


EVALUATION_BATCH = 500
MOST_OUTPUTS = 2**24  # numbers that one evaluation batch may give, such as the scores of all tokens at every step


def _evaluation_batch(experiment: Experiment) -> int:
    """Examples of an evaluation batch; where batches continue one another as many as in training, for long rows."""
    if experiment.consecutive:
        return experiment.batch_size
    most = MOST_OUTPUTS // max(1, math.prod(experiment.task.out_shape()))
    return max(experiment.batch_size, min(EVALUATION_BATCH, most))


PARTS = ("train", "val", "test")


def _workers(wanted: int | str, devices: int) -> int:
    return max(1, min(8, (os.cpu_count() or 1) // devices)) if wanted == "auto" else int(wanted)


def all_targets(part: Part) -> torch.Tensor:
    """All targets of the training part; a streamed folder knows them without reading a picture."""
    if isinstance(part, (Examples, Windows)):
        return part.targets
    if isinstance(part, Subset):
        return all_targets(part.dataset)[torch.tensor(part.indices)]
    targets: torch.Tensor = part.targets  # type: ignore[attr-defined]
    return targets

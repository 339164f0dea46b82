"""A family trained twice from the same seed, as it is written and through recordings, to be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import family_cases as cases
from dlrun.build import Experiment
from dlrun.data import Examples
from dlrun.data.batches import Batches
from dlrun.engines.recorded_steps import RecordedSteps
from dlrun.engines.recording import GaveUp, Recorder
from dlrun.schedules import Constant
from dlrun.tasks.generation import Generation
from dlrun.training.average import Average, NoAverage
from dlrun.training.signals import StopFlag
from dlrun.training.trainer import Trainer
from tape import Tape
from tiny import AsIs, plan

BATCH = 4  # and one batch of three in each epoch, unless batches continue one another


class Run:
    """A trainer of one family on noise, and what its recordings had to say."""

    def __init__(
        self,
        experiment: Experiment,
        recorder: Recorder | None,
        sizes: Sequence[int] = (1,),
        steps: int = 50,
        **more: Any,
    ) -> None:
        self.notes: list[str] = []
        self.recorder, task = recorder, experiment.task
        device = experiment.device
        inputs, targets = cases.batch(experiment, size=4 * BATCH + 3)
        task.fit(targets.flatten(0, 1) if task.name in ("language_modelling", "forecasting") else targets,
                 lambda: [(inputs, targets)])  # fmt: skip
        if isinstance(task, Generation) and experiment.facts.kind == "image":
            task.use_features(lambda images: images.float().flatten(1)[:, ::8])
        torch.manual_seed(0)
        model = experiment.model().to(device)
        algorithm = experiment.algorithm(model)
        average: Average = more.pop("average", lambda _: NoAverage())(model)
        taken = {} if recorder is None else {"take": RecordedSteps(recorder, self._note, sizes, math.inf).take}
        batches = Batches(
            Examples(inputs, targets), preprocess=AsIs(), batch_size=BATCH, device=device, seed=0,
            consecutive=experiment.consecutive, **more.pop("batches", {}),
        )  # fmt: skip
        parts: dict[str, Any] = {
            "take_step": algorithm.step, "schedule": Constant(), "train": batches, "val": None,
            "plan": plan(steps, 1000, 13), "goal": task.monitor, "stop": StopFlag(), "average": average,
        }  # fmt: skip
        self.trainer = Trainer(
            model=model, task=task, facts=experiment.facts, algorithm=algorithm, precision=experiment.precision,
            **(parts | taken | more),
        )  # fmt: skip

    def _note(self, found: GaveUp) -> None:
        self.notes.append(found.reason)

    def fit(self) -> Run:
        torch.manual_seed(1)
        self.trainer.fit()
        return self

    def state(self) -> dict[str, Tensor]:
        """Weights and statistics, what the algorithm carries, the averages, and the logs since the last row."""
        trainer = self.trainer
        tree = [
            trainer.model.state_dict(),
            trainer.algorithm.state_dict(),
            trainer.average.state_dict(),
            trainer.window.logs,
        ]
        return {str(place): torch.as_tensor(leaf).detach().cpu() for place, leaf in enumerate(tree_leaves(tree))}

    @property
    def tape(self) -> Tape:
        assert isinstance(self.recorder, Tape)
        return self.recorder


def with_optimizer(experiment: Experiment, **settings: Any) -> Experiment:
    """The same experiment with other settings of its optimizer."""
    return replace(experiment, node=experiment.node | {"optimizer": experiment.node["optimizer"] | settings})

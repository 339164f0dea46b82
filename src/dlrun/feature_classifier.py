"""The classifier in whose feature space generated images are judged: an ordinary run, inside the run that needs it.

Legend: B batch, N examples, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dlrun.build import Experiment
from dlrun.config import compose
from dlrun.data.images import ImagePreprocess
from dlrun.errors import CheckpointError, ConfigError, DlrunError
from dlrun.tasks.generation import Generation
from dlrun.tracking.run_directory import RunDirectory, list_runs
from dlrun.training.callbacks import Reporter
from dlrun.training.reporters import Silent
from dlrun.training.signals import StopFlag

if TYPE_CHECKING:
    from dlrun.run import Outcome
    from dlrun.trained import Trained

# The recipes are imported where they are called: they open sessions, and a session asks for its classifier here.

FOLDER = "classifier"
SMALLEST_FOR_CNN = 16
# Keys of trainer that it shares. Not the seed: the same classifier for all of them, so that distances compare.
SHARED = ("device", "threads", "workers", "deterministic", "limit")


class ClassifierFeatures:
    """Images in the generator's range to what a classifier's last linear layer gets.

    Args:
        trained: a classifier of images whose last layers are linear.
        name: what to call it in an error.

    Raises:
        ConfigError: it has no linear layer, or its data are no images.
    """

    def __init__(self, trained: Trained, name: str) -> None:
        linear = [module for module in trained.model.modules() if isinstance(module, nn.Linear)]
        if not linear or not isinstance(trained.preprocess, ImagePreprocess):
            raise ConfigError(f"task.classifier={name} is no classifier of images with a linear layer; use auto")
        self.model, self.preprocess, self.last = trained.model.eval(), trained.preprocess, linear[-1]
        self.size: int = self.last.in_features

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) from -1 to 1 -> features (B, D), always in 32 bits."""
        seen: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        raw = (images + 1) / 2 * self.preprocess.scale
        try:
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                self.model(self.preprocess(raw.float()))
        finally:
            handle.remove()
        return seen[0].flatten(1)


def provide_classifier(
    experiment: Experiment, run: RunDirectory, reporter: Reporter, stop: StopFlag, may_train: bool = True
) -> None:
    """Give a generation task the feature space it asks for; nothing for any other task.

    With ``task.classifier=auto`` the classifier is trained in ``RUN/classifier``, or gone on with, or taken from there
    when it is finished: from a seed of its own, so that it is the same each time. A signal that ends its training is
    passed on to ``stop``.

    Raises:
        ConfigError: ``task.classifier`` is no run that fits, or the pixels are not in the generator's range.
    """
    from dlrun.session import prepare_process
    from dlrun.trained import restore

    task = experiment.task
    if not isinstance(task, Generation) or task.classifier is None:
        return
    pixels = experiment.node["data"].get("pixels", "auto")
    if pixels not in ("auto", task.pixels):
        raise ConfigError(f"data.pixels={pixels}: generated images are from -1 to 1; leave it at data.pixels=auto")
    if not may_train and task.classifier == "auto" and not _finished(run):
        raise ConfigError(f"{run.path} has no finished classifier to judge by; go on with it: dlrun resume {run.path}")
    path = _own(experiment, run, reporter, stop) if task.classifier == "auto" else _given(task.classifier)
    if path is None:
        return
    try:
        trained = restore(path, experiment.trusted)
    except CheckpointError as error:
        raise ConfigError(f"task.classifier={task.classifier}: {error}") from error
    if trained.facts.input_shape != experiment.facts.input_shape:
        raise ConfigError(
            f"task.classifier={task.classifier} takes images of {trained.facts.input_shape}, but those of "
            f"'{experiment.facts.name}' are {experiment.facts.input_shape}; use task.classifier=auto"
        )
    prepare_process(experiment)  # the classifier's run has made its own settings
    trained.model.to(experiment.device)
    features = ClassifierFeatures(trained, task.classifier)
    task.use_features(features)
    accuracy = RunDirectory.open(path).record().get("metrics", {}).get("test/accuracy")
    right = "" if accuracy is None else f", right about {accuracy:.1%} of the test part"
    reporter.note(f"Frechet distances are in the {features.size}-dimensional feature space of {path.name}{right}")


def _finished(run: RunDirectory) -> list[Path]:
    return [Path(record["path"]) for record in list_runs(run.path / FOLDER) if record["status"] == "done"]


def _given(text: str) -> Path:
    path = Path(text)
    record = RunDirectory.open(path).record()
    if record.get("task") != "classification":
        raise ConfigError(f"task.classifier={text} is a run of {record.get('task')}, not of classification; use auto")
    return path


def _own(experiment: Experiment, run: RunDirectory, reporter: Reporter, stop: StopFlag) -> Path | None:
    """The finished run in ``RUN/classifier``; None when a signal ended it."""
    from dlrun.run import train

    root = run.path / FOLDER
    records, done = list_runs(root), _finished(run)
    if done:
        return done[-1]
    begun = [Path(record["path"]) for record in records if record["status"] in ("crashed", "interrupted")]
    reporter.note("training the classifier whose features generated images are judged by")
    outcome = _resumed(begun[-1], experiment) if begun else None
    if outcome is None:
        command = ["dlrun", "train", f"(for {run.path.name})"]
        config = _config(experiment)
        outcome = train(config, root=root, command=command, reporter=Silent(), trusted=experiment.trusted)
    if outcome.status == "interrupted":
        stop.number = outcome.exit_code - 128
        return None
    return outcome.path


def _resumed(path: Path, experiment: Experiment) -> Outcome | None:
    """A run that was broken off, gone on with; None when it cannot be: a new one gives the same bits."""
    from dlrun.resume import resume

    try:
        return resume(path, overrides=[], reporter=Silent(), trusted=experiment.trusted)
    except DlrunError:
        return None


def _config(experiment: Experiment) -> DictConfig:
    """A small network on the same data; from 16 x 16 pixels on a convolutional one."""
    small = min(experiment.facts.input_shape[1:]) < SMALLEST_FOR_CNN
    network = (
        ["model=mlp", "model.hidden=[128,64]"]
        if small
        else ["model=cnn", "model.channels=[16,32]", "model.hidden=[64]"]
    )
    assert isinstance(experiment.task, Generation)
    steps = experiment.task.classifier_steps
    config = compose(
        [
            *network, f"trainer.steps={steps}", f"trainer.evaluate_steps={steps}", "tracking=minimal",
            "task=classification",
        ]
    )  # fmt: skip
    OmegaConf.set_struct(config, False)
    config.data = experiment.config.data
    config.choices.data = experiment.config.choices.data
    for key in SHARED:
        config.trainer[key] = experiment.config.trainer[key]
    OmegaConf.set_struct(config, True)
    return config

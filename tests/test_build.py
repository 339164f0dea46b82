"""The check of a whole configuration: what it decides, what it refuses, what it costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dlrun.algorithms.accumulation import Accumulation
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.build import Experiment, check, limited
from dlrun.config import compose
from dlrun.errors import ConfigError
from dlrun.training.device import choose_device
from family_cases import OVERRIDES


def checked(*overrides: str) -> Experiment:
    return check(compose(list(overrides)))


@pytest.mark.parametrize(
    ("overrides", "task", "loss", "units"),
    [
        (["data=digits"], "classification", "CrossEntropy", 10),
        (["data=breast_cancer"], "classification", "BinaryCrossEntropy", 1),
        (["data=breast_cancer", "loss=cross_entropy"], "classification", "CrossEntropy", 2),
        (["data=breast_cancer", "task=classification", "task.outputs=2"], "classification", "CrossEntropy", 2),
        (["data=diabetes"], "regression", "MeanSquaredError", 1),
        (["data=diabetes", "loss=huber"], "regression", "Huber", 1),
    ],
)
def test_task_loss_and_output_layer_follow_from_the_data(
    overrides: list[str], task: str, loss: str, units: int
) -> None:
    experiment = checked(*overrides)
    assert experiment.task.name == task
    assert type(experiment.loss).__name__ == loss
    outputs = experiment.model()(torch.zeros(2, *experiment.facts.input_shape))
    assert outputs.shape == (2, units)


def test_the_model_is_what_was_asked_for() -> None:
    model = checked("model.hidden=[7,5]", "activation=tanh").model()
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
    assert shapes == [(7, 64), (5, 7), (10, 5)]
    assert sum(isinstance(m, torch.nn.Tanh) for m in model.modules()) == 2
    assert next(model.parameters()).device.type == "cpu"


def test_every_hidden_layer_has_an_activation_of_its_own() -> None:
    model = checked("model.hidden=[7,5]", "activation=prelu").model()
    assert len({id(m) for m in model.modules() if isinstance(m, torch.nn.PReLU)}) == 2


def test_the_batch_follows_from_the_optimizer_and_the_limit() -> None:
    whole = checked("optimizer=gd")
    assert whole.full_batch
    assert whole.batch_size == whole.facts.sizes["train"]
    assert checked("optimizer=gd", "trainer.limit.train=100").batch_size == 100
    assert checked("optimizer=lbfgs").full_batch
    assert checked("optimizer=lbfgs", "trainer.batch_size=50").batch_size == 50
    assert checked("trainer.limit.train=10").batch_size == 10
    assert not checked().full_batch


def test_clipping_and_pieces_come_from_the_trainer_group() -> None:
    experiment = checked("trainer.clip_norm=1", "trainer.clip_value=0.1", "trainer.accumulate=2")
    model = experiment.model()
    updater = experiment.updater(model)
    assert len(updater.clips) == 2
    assert isinstance(experiment.algorithm(model), Accumulation)
    plain = checked()
    assert plain.updater(model).clips == ()
    assert isinstance(plain.algorithm(model), Backpropagation)
    assert checked("precision=fp16").updater(model).scaler.is_enabled()


def test_frozen_parameters_are_left_out() -> None:
    experiment = checked()
    model = experiment.model()
    first = next(model.parameters())
    first.requires_grad = False
    assert all(p is not first for p in experiment.updater(model).parameters)


def test_what_was_chosen_is_said_with_its_reason() -> None:
    rows = {name: (what, why) for name, what, why in checked("loss=cross_entropy").choices}
    assert rows["task"] == ("classification", "from the data")
    assert rows["loss"] == ("CrossEntropy", "as asked")
    assert rows["best by"] == ("val/accuracy", "from the task")
    assert rows["output layer"][0].startswith("10 units")
    assert {"data", "model", "activation", "optimizer", "schedule", "batch", "precision", "device"} <= set(rows)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.seed=${oc.env:NOT_SET_FOR_DLRUN}"], "cannot be resolved: "),
        (["data.seed=${nowhere.at.all}"], "cannot be resolved: "),
        (["trainer.device=gpu"], "trainer.device=gpu: takes cpu, cuda"),
        (["tracking.share=2"], "tracking.share=2: takes a share of the time from 0 to 1"),
        (["model._target_=torch.nn.ReLU"], "ReLU has no parameters to train"),
        (["activation._target_=torch.nn.GLU"], "cannot take inputs"),
        (["data=breast_cancer", "loss=bce", "loss.class_weights=[1,2,3]"], "3 numbers for 2 classes"),
        (["optimizer.betas=[2,2]"], "optimizer: Invalid beta"),
        (["optimizer=gd", "trainer.batch_size=5"], "use optimizer=sgd for mini-batches"),
    ],
)
def test_a_configuration_that_cannot_be(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        checked(*overrides)
    assert "\n" not in str(caught.value)


MODELS = {
    "Nothing": ("super().__init__()", "return x", "has no parameters to train"),
    "Wide": (
        "super().__init__(); self.l = torch.nn.Linear(64, 3)",
        "return self.l(x.flatten(1))",
        "(2, 3) for a batch",
    ),
    "Pair": ("super().__init__(); self.l = torch.nn.Linear(64, 10)", "return x, x", "gives tuple for a batch of 2"),
    "Fails": ("super().__init__(); self.l = torch.nn.Linear(5, 10)", "return self.l(x)", "cannot take inputs of shape"),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_own_network_that_does_not_fit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init, forward, words = MODELS[name]
    package = f"built_{name.lower()}_for_dlrun"
    (tmp_path / f"{package}.py").write_text(
        f"import torch\nclass {name}(torch.nn.Module):\n    def __init__(self):\n        {init}\n"
        f"    def forward(self, x):\n        {forward}\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text(f"# Own\n_target_: {package}.{name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(words)):
        check(compose(["model=own"], [tmp_path]), [package])


@pytest.mark.parametrize(
    ("examples", "limit", "left"),
    [(100, None, 100), (100, 7, 7), (100, 700, 100), (100, 0.25, 25), (100, 1.0, 100), (100, 0.001, 1), (3, 0.5, 2)],
)
def test_limited(examples: int, limit: float | None, left: int) -> None:
    assert limited(examples, limit) == left


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    available: dict[str, Any] = {"is_available": lambda: False, "device_count": lambda: 0}
    for name, value in available.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA device here"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="there are 2 CUDA devices, counted from 0"):
        choose_device("cuda:2")


def test_a_torchvision_network_by_its_target() -> None:
    """The name in the target counts, whatever name the group's file holds."""
    small, large = (
        sum(p.numel() for p in check(compose(["data=cifar10", *words])).model().parameters())
        for words in (["model._target_=torchvision.models.resnet18"], ["model=torchvision", "model.name=resnet18"])
    )
    assert small == large
    other = check(
        compose(["data=cifar10", "model=torchvision", "model._target_=torchvision.models.shufflenet_v2_x0_5"])
    )
    assert sum(p.numel() for p in other.model().parameters()) < small / 5


@pytest.mark.parametrize("model", ["vae", "autoencoder", "mlp", "lstm"])
def test_a_network_of_one_size_is_refused_for_pictures_of_any_size(model: str, family_files: dict[str, Path]) -> None:
    words = [word.format(**family_files) for word in OVERRIDES["srcnn"]]
    with pytest.raises(ConfigError, match="use model=srcnn or espcn"):
        check(compose([*words, f"model={model}"]))

"""What every ``configs/model/*.yaml`` is tried with: the smallest data and sizes at which it means something."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.build import Experiment, check
from dlrun.config import compose, config_dir
from dlrun.models.recurrent import write_out

BATCH = 6
NAMES = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))

# Beside model=NAME; data=digits (1x8x8, ten classes) where nothing is said.
TEXT = ["data=text", "data.context=12"]
SUPERRES = ["data=superres", "data.path={images}", "data.test_path={more}", "data.patch=12", "data.scale=2"]
OVERRIDES: dict[str, list[str]] = {
    "lenet5": ["data=mnist"],
    "resnet": ["data=cifar10", "model.depth=8"],
    "torchvision": ["data=cifar10", "model.name=shufflenet_v2_x0_5"],
    "transformer": [*TEXT, "model.width=32", "model.layers=2", "optimizer.lr=5e-3"],
    "dlinear": ["data=series", "data.path={series}", "data.look_back=24", "data.horizon=6"],
    "patch_transformer": ["data=series", "data.path={series}", "data.look_back=24", "data.horizon=6"],
    "srcnn": SUPERRES,
    "espcn": SUPERRES,
    "gan": ["task.classifier_steps=5"],
    "dcgan": ["data=mnist", "task.classifier_steps=5"],
    "rbm": ["optimizer.lr=0.05", "task.ais_steps=50"],
    "dbm": ["algorithm.steps_per_layer=2"],
    "dbn": ["algorithm.steps_per_layer=2"],
    "svm": ["optimizer.lr=0.1", "task.C=1000"],  # with C=1 the norm of w counts for more than six examples
    "svm_gaussian": ["task.C=1000"],
}
# A second kind of data for families that take several.
ALSO = {
    "lstm-text": ["model=lstm", *TEXT],
    "gru-series": ["model=gru", *OVERRIDES["dlinear"]],
    "rnn-carried": ["model=rnn", *TEXT, "algorithm=truncated_backpropagation"],
    "transformer_encoder-series": ["model=transformer_encoder", *OVERRIDES["dlinear"]],
    "mlp-series": ["model=mlp", *OVERRIDES["dlinear"]],
    "mlp-regression": ["model=mlp", "data=diabetes"],
    "gan-points": ["model=gan", "data=ring"],
    "gan-wasserstein": ["model=gan", "task.classifier_steps=5", "loss=wasserstein", "algorithm.critic_steps=3"],
    "rbm-persistent": ["model=rbm", "optimizer.lr=0.05", "task.ais_steps=50", "algorithm.persistent=true"],
    "autoencoder-pretrained": [
        "model=autoencoder", "activation=sigmoid", "algorithm=layerwise", "algorithm.steps_per_layer=1",
    ],
    "autoencoder-table": ["model=autoencoder", "data=wine"],
}  # fmt: skip
ALL = NAMES + sorted(ALSO)


def overrides(name: str, files: dict[str, Path]) -> list[str]:
    """The words after ``dlrun train``."""
    words = ALSO.get(name) or [f"model={name}", *OVERRIDES.get(name, [])]
    return [word.format(**files) for word in words]


@cache
def _experiment(words: tuple[str, ...]) -> Experiment:
    return check(compose([*words, "trainer.device=cpu"]))


def experiment(name: str, files: dict[str, Path], *more: str) -> Experiment:
    """The checked experiment, made once per session; ``more`` are further words."""
    return _experiment((*overrides(name, files), *more))


def model(experiment: Experiment, seed: int = 0) -> nn.Module:
    """The network as a run builds it from its seed, written out as arithmetic where it has a fused kernel."""
    torch.manual_seed(seed)
    built = experiment.model()
    write_out(built)
    return built


def batch(experiment: Experiment, seed: int = 0, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Noise of the right shape, type and range."""
    source = torch.Generator().manual_seed(seed)

    def like(example: Tensor, limit: int) -> Tensor:
        shape = (size, *example.shape[1:])
        if example.dtype == torch.int64:
            return torch.randint(0, max(2, limit), shape, generator=source)
        if example.ndim >= 3 and experiment.task.pixels in ("unit", "binary"):
            pixels = torch.rand(shape, generator=source)
            return pixels if experiment.task.pixels == "unit" else pixels.round()
        return torch.randn(shape, generator=source)

    inputs, targets = experiment.task.example()
    facts: Any = experiment.facts
    return like(inputs, facts.vocabulary), like(targets, facts.vocabulary or facts.num_classes)

"""The table of cases: network, data, optimizer, batch, length, and how dlrun is told the same.

The networks are dlrun's own classes in every way, so that only the loops differ. Every case trains on whole batches: so
many steps per epoch, and on a GPU several epochs, where a step is short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kinds import ADVERSARIAL, BOLTZMANN, CLASSIFY, CLASSIFY_NORMALISED, RECONSTRUCT, Kind
from torch import nn

IMAGE, CLASSES, CONTEXT = (1, 28, 28), 10, 64


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        slug: its name in file names and in ``--cases``.
        source: ``images`` (Fashion-MNIST) or ``text`` (tiny Shakespeare).
        pixels: range of the images: ``unit`` or ``symmetric``.
        steps: of one epoch, on the CPU and on a GPU.
        epochs: on a GPU; one on the CPU.
        band: how far the final metric of a way may be from the hand-written loop's, as a share of it, on the CPU; twice
            as far on a GPU, where longer training leaves a smaller loss. An untrained network is outside of it.
        target: of dlrun's time over the hand-written loop's, on the CPU and on an H200.
    """

    slug: str
    name: str
    kind: Kind
    batch: int
    steps: tuple[int, int]
    epochs: int
    optimizer: str
    rate: float
    words: tuple[str, ...]
    network: Callable[[int], nn.Module]
    band: float
    target: tuple[float, float]
    source: str = "images"
    pixels: str = "unit"

    def apart(self, device: str) -> float:
        """The band on a device."""
        return self.band * (2 if device == "cuda" else 1)

    def length(self, device: str, quick: bool = False) -> tuple[int, int]:
        """Steps of an epoch, and epochs."""
        if quick:
            return 4, 1
        return (self.steps[1], self.epochs) if device == "cuda" else (self.steps[0], 1)


def mlp(vocabulary: int) -> nn.Module:
    from dlrun.models.mlp import MLP

    return MLP(IMAGE, CLASSES, nn.ReLU, hidden=[128])


def lenet5(vocabulary: int) -> nn.Module:
    from dlrun.models.lenet5 import LeNet5

    return LeNet5(IMAGE, CLASSES, nn.Tanh)


def resnet20(vocabulary: int) -> nn.Module:
    from dlrun.models.resnet import resnet

    return resnet(IMAGE, CLASSES, nn.ReLU, depth=20)


def lstm(vocabulary: int) -> nn.Module:
    from dlrun.models.lstm import LSTM

    return LSTM(IMAGE, (CLASSES,), hidden=128)


def transformer(vocabulary: int) -> nn.Module:
    from dlrun.models.transformer import Transformer

    return Transformer((CONTEXT,), vocabulary, True, nn.GELU, layers=4, heads=4, width=128)


def autoencoder(vocabulary: int) -> nn.Module:
    from dlrun.models.autoencoder import Autoencoder

    return Autoencoder(IMAGE, nn.ReLU, hidden=[256, 64], code=16)


def gan(vocabulary: int) -> nn.Module:
    from dlrun.models.gan import GAN

    return GAN(IMAGE, latent=64, hidden=[128, 128])


def rbm(vocabulary: int) -> nn.Module:
    from dlrun.models.rbm import RBM

    return RBM(IMAGE, hidden=128)


def _mlp(batch: int, steps: tuple[int, int], epochs: int) -> Case:
    words = ("model=mlp", "model.hidden=[128]", "activation=relu")
    name = f"MLP 784-128-10, Adam, batch {batch}"
    return Case(
        f"mlp{batch}", name, CLASSIFY, batch, steps, epochs, "adam", 1e-3, words, mlp, 0.15, (1.0, 0.35)
    )  # fmt: skip


CASES = (
    _mlp(32, (800, 1600), 2),
    _mlp(128, (200, 400), 4),
    Case(
        "lenet5", "LeNet-5, momentum, batch 128", CLASSIFY, 128, (80, 400), 2, "momentum", 0.05,
        ("model=lenet5", "activation=tanh"), lenet5, 0.2, (1.0, 0.35),
    ),
    Case(
        "resnet20", "ResNet-20, momentum, batch 128", CLASSIFY_NORMALISED, 128, (12, 400), 1, "momentum", 0.02,
        # By accuracy the untrained network may be the best of these few steps, and dlrun keeps the best.
        ("model=resnet", "model.depth=20", "activation=relu", "trainer.monitor=loss"), resnet20, 0.12, (1.0, 0.6),
    ),
    Case(
        "lstm", "LSTM 28 steps of 28, 128 units, Adam, batch 128", CLASSIFY, 128, (80, 400), 2, "adam", 2e-3,
        ("model=lstm", "model.hidden=128"), lstm, 0.2, (1.0, 0.35),
    ),
    Case(
        "transformer", "Transformer, 4 layers of 128, text, Adam, batch 12x64", CLASSIFY, 12, (40, 1000), 1, "adam",
        1e-3, ("model=transformer", "activation=gelu"), transformer, 0.1, (1.0, 0.9), "text",
    ),
    Case(
        "autoencoder", "Autoencoder 784-256-64-16, Adam, batch 128", RECONSTRUCT, 128, (150, 400), 2, "adam", 1e-3,
        ("model=autoencoder", "model.hidden=[256,64]", "model.code=16", "activation=relu"), autoencoder, 0.15,
        (1.0, 0.35),
    ),
    Case(
        "gan", "GAN 64-128-128-784, Adam, batch 128", ADVERSARIAL, 128, (150, 400), 2, "adam", 1e-3,
        ("model=gan", "task.classifier=null", "task.samples=100"), gan, 0.2, (1.0, 0.35), "images", "symmetric",
    ),
    Case(
        "rbm", "RBM 784-128, CD-1, momentum, batch 128", BOLTZMANN, 128, (150, 400), 4, "momentum", 0.05,
        ("model=rbm", "model.hidden=128", "task.ais_steps=29", "task.ais_chains=2"), rbm, 0.1, (1.0, 0.35),
    ),
)  # fmt: skip


def case_of(slug: str) -> Case:
    """The case of this name."""
    return next(case for case in CASES if case.slug == slug)

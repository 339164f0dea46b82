"""The six made-up data sets of TensorFlow Playground: points of a plane with two classes or one value.

Source: github.com/tensorflow/playground, src/dataset.ts (Apache-2.0), formula by formula. It differs in:
1. Noise is a share (0 to 0.5) as inside Playground; its slider shows it as 0 to 50 per cent.
2. Random numbers come from NumPy's generator, so a seed gives other points than in the browser.
3. An odd number of examples gives one more of the positive class; Playground makes one example too many.
4. A validation part is taken from the training part.

As there, label +1 (class 1) is blue and label -1 (class 0) is orange. Legend: N points; ``noise`` is a share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from dlrun.data import Examples, Splits
from dlrun.data.facts import Facts
from dlrun.data.tabular import TablePreprocess, part_sizes, three_parts
from dlrun.errors import ConfigError, did_you_mean

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Function = Callable[[int, float, Rng], tuple[Floats, Floats]]

RADIUS = 5.0  # of the circle, the squares of xor and the spiral
HALF = 6.0  # half the width of the plane
AXES = ("x", "y")
CLASSES = ("orange", "blue")
BUMPS = ((-4, 2.5, 1), (0, 2.5, -1), (4, 2.5, 1), (-4, -2.5, -1), (0, -2.5, 1), (4, -2.5, -1))


def circle(n: int, noise: float, rng: Rng) -> tuple[Floats, Floats]:
    """A disc of radius 2.5 (+1) inside a ring from 3.5 to 5 (-1); noise moves points before labelling."""
    inner = _ceil_half(n)
    radius = np.concatenate([rng.uniform(0, RADIUS / 2, inner), rng.uniform(0.7 * RADIUS, RADIUS, n - inner)])
    angle = rng.uniform(0, 2 * np.pi, n)
    points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    moved = points + noise * rng.uniform(-RADIUS, RADIUS, (n, 2))
    return points, np.where(np.hypot(moved[:, 0], moved[:, 1]) < RADIUS / 2, 1.0, -1.0)


def xor(n: int, noise: float, rng: Rng) -> tuple[Floats, Floats]:
    """Four squares around the origin, 0.3 away from the axes: +1 where x and y have the same sign."""
    points = rng.uniform(-RADIUS, RADIUS, (n, 2))
    points += np.where(points > 0, 0.3, -0.3)
    moved = points + noise * rng.uniform(-RADIUS, RADIUS, (n, 2))
    return points, np.where(moved[:, 0] * moved[:, 1] >= 0, 1.0, -1.0)


def gaussians(n: int, noise: float, rng: Rng) -> tuple[Floats, Floats]:
    """Two round normal clouds at (2, 2) (+1) and (-2, -2) (-1); noise 0 to 0.5 is a variance of 0.5 to 4."""
    labels = np.where(np.arange(n) < _ceil_half(n), 1.0, -1.0)
    variance = 0.5 + noise / 0.5 * 3.5
    return 2 * labels[:, None] + np.sqrt(variance) * rng.standard_normal((n, 2)), labels


def spiral(n: int, noise: float, rng: Rng) -> tuple[Floats, Floats]:
    """Two arms of 1.75 turns, one turned by half a turn (-1); noise moves the points."""
    positive = _ceil_half(n)
    labels = np.where(np.arange(n) < positive, 1.0, -1.0)
    along = np.concatenate([np.arange(size) / max(size, 1) for size in (positive, n - positive)])
    angle = 1.75 * along * 2 * np.pi + np.where(labels > 0, 0.0, np.pi)
    points = RADIUS * along[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return points + noise * rng.uniform(-1, 1, (n, 2)), labels


def plane(n: int, noise: float, rng: Rng) -> tuple[Floats, Floats]:
    """The value (x + y) / 10 on the square from -6 to 6; noise moves the point before its value is read off."""
    points = rng.uniform(-HALF, HALF, (n, 2))
    moved = points + noise * rng.uniform(-HALF, HALF, (n, 2))
    return points, moved.sum(axis=1) / 10


def bumps(n: int, noise: float, rng: Rng) -> tuple[Floats, Floats]:
    """Six cones of height +1 or -1 and radius 2; where they overlap, the one of larger size counts."""
    points = rng.uniform(-HALF, HALF, (n, 2))
    moved = points + noise * rng.uniform(-HALF, HALF, (n, 2))
    value = np.zeros(n)
    for x, y, sign in BUMPS:
        height = sign * np.clip(1 - np.hypot(moved[:, 0] - x, moved[:, 1] - y) / 2, 0, 1)
        value = np.where(np.abs(height) > np.abs(value), height, value)
    return points, value


CLASSIFICATION: dict[str, Function] = {"circle": circle, "xor": xor, "gaussians": gaussians, "spiral": spiral}
REGRESSION: dict[str, Function] = {"plane": plane, "bumps": bumps}


class Playground:
    """One of the six data sets. The points go into the network as they are, from -6 to 6, as in Playground.

    Args:
        name: ``circle``, ``xor``, ``gaussians``, ``spiral`` (two classes), ``plane`` or ``bumps`` (one value).
        noise: 0 to 0.5.
        train: share of the examples to train on; the others are the test part.
        val: share of the training part held out to choose the best checkpoint by.
        examples: how many points; None for Playground's 500 (classes) or 1,200 (values).
        seed: of the points and of the split.
    """

    def __init__(
        self,
        *,
        name: str,
        noise: float = 0.0,
        train: float = 0.5,
        val: float = 0.1,
        examples: int | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.noise, self.train, self.val, self.seed = name, noise, train, val, seed
        self.examples = examples if examples is not None else 500 if name in CLASSIFICATION else 1200

    def facts(self) -> Facts:
        """Everything there is to know, without making a point. Raises ConfigError for a key out of its range."""
        if self.name not in CLASSIFICATION and self.name not in REGRESSION:
            hint = did_you_mean(self.name, [*CLASSIFICATION, *REGRESSION])
            raise ConfigError(f"data.name={self.name} is no data set of TensorFlow Playground{hint}")
        if not 0 <= self.noise <= 0.5:
            raise ConfigError(f"data.noise={self.noise} must lie between 0 and 0.5, such as data.noise=0.1")
        if not 0 < self.train <= 1:
            raise ConfigError(f"data.train={self.train} must be a share above 0 and at most 1, such as data.train=0.5")
        if self.examples < 10:
            raise ConfigError(f"data.examples={self.examples} is too few; take at least 10, such as data.examples=500")
        classes = CLASSES if self.name in CLASSIFICATION else ()
        return Facts(
            name=self.name,
            kind="points",
            input_shape=(2,),
            task="classification" if classes else "regression",
            classes=classes,
            targets=() if classes else ("value",),
            features=AXES,
            sizes=part_sizes(self.examples, self.val, 1 - self.train),
        )

    def load(self) -> Splits:
        """Make the points and split them."""
        facts = self.facts()
        function = (CLASSIFICATION | REGRESSION)[self.name]
        points, values = function(self.examples, self.noise, np.random.default_rng(self.seed))
        inputs = torch.as_tensor(points, dtype=torch.float32)
        labels = torch.as_tensor(values > 0, dtype=torch.int64) if facts.classes else None
        targets = labels if labels is not None else torch.as_tensor(values, dtype=torch.float32)[:, None]
        parts = three_parts(self.examples, self.val, 1 - self.train, self.seed, labels)
        train, val, test = (Examples(inputs[part], targets[part]) for part in parts)
        preprocess = TablePreprocess.identity(AXES, "color" if facts.classes else "value")
        fingerprint = hashlib.sha256(points.tobytes() + values.tobytes()).hexdigest()
        return Splits(facts, train, val, test, preprocess, fingerprint)


def _ceil_half(n: int) -> int:
    return (n + 1) // 2

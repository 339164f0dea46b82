"""Round normal clouds on a circle: whether a generator finds all of them shows at a glance.

Source: L. Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017, section 3.1: eight clouds of deviation
0.02 on a circle of radius 2. Differs from it in: 1. a fixed number of points, the same for each cloud as nearly as can
be, where it draws new ones for each step; 2. a deviation of 0.05 by default: clouds of 0.02 are a hundredth of the
circle's width, which a network of this size needs long to hit.

Legend: N points, K clouds.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from dlrun.data import Examples, Splits
from dlrun.data.facts import Facts
from dlrun.data.tabular import TablePreprocess, part_sizes, three_parts
from dlrun.errors import ConfigError

AXES = ("x", "y")


class Ring:
    """Points of K normal clouds, evenly spaced on a circle around the origin; the cloud is the class.

    Args:
        modes: number of clouds, K.
        radius: of the circle.
        deviation: standard deviation of a cloud along each axis.
        examples: number of points.
        val: share of the training part held out to choose the best checkpoint by.
        test: share of all points held out for the test.
        seed: of the points and of the split.
    """

    def __init__(
        self,
        *,
        modes: int = 8,
        radius: float = 2.0,
        deviation: float = 0.05,
        examples: int = 10000,
        val: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.modes, self.radius, self.deviation, self.examples = modes, radius, deviation, examples
        self.val, self.test, self.seed = val, test, seed

    def facts(self) -> Facts:
        """Everything there is to know, without making a point. Raises ConfigError for a key out of its range."""
        if self.modes < 2:
            raise ConfigError(f"data.modes={self.modes}: a ring has at least 2 clouds, such as data.modes=8")
        if self.radius <= 0:
            raise ConfigError(f"data.radius={self.radius} must be above 0, such as data.radius=2")
        if self.deviation <= 0:
            raise ConfigError(f"data.deviation={self.deviation} must be above 0, such as data.deviation=0.05")
        if self.examples < 10 * self.modes:
            raise ConfigError(
                f"data.examples={self.examples} is too few for {self.modes} clouds; take at least {10 * self.modes}"
            )
        return Facts(
            name="ring",
            kind="points",
            input_shape=(2,),
            task="classification",
            classes=tuple(f"cloud {k + 1}" for k in range(self.modes)),
            features=AXES,
            sizes=part_sizes(self.examples, self.val, self.test),
        )

    def load(self) -> Splits:
        """Make the points and split them."""
        facts = self.facts()
        rng = np.random.default_rng(self.seed)
        clouds = np.arange(self.examples) % self.modes
        angle = 2 * np.pi * clouds / self.modes
        centres = self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        points = centres + self.deviation * rng.standard_normal((self.examples, 2))
        inputs = torch.as_tensor(points, dtype=torch.float32)
        targets = torch.as_tensor(clouds, dtype=torch.int64)
        parts = three_parts(self.examples, self.val, self.test, self.seed, targets)
        train, val, test = (Examples(inputs[part], targets[part]) for part in parts)
        fingerprint = hashlib.sha256(points.tobytes() + clouds.tobytes()).hexdigest()
        return Splits(facts, train, val, test, TablePreprocess.identity(AXES, "cloud"), fingerprint)

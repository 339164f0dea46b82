"""Support vector machines: a linear one, and a Gaussian kernel by explicit features.

A machine is linear in its features, f(x) = w phi(x) + b; the margin, C and the hinge are the task's (``max_margin``).
Sources: C. Cortes and V. Vapnik, "Support-Vector Networks", Machine Learning 20, 1995; the Gaussian kernel
k(x, y) = exp(-gamma |x - y|^2) is approximated as phi(x) phi(y) by

- Nystrom: C. Williams and M. Seeger, "Using the Nystrom Method to Speed Up Kernel Machines", NIPS 2000: M training
  examples are landmarks, phi(x) = k(x, landmarks) U L^(-1/2) with U L U' the kernel between the landmarks;
- Fourier: A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel Machines", NIPS 2007, algorithm 1:
  phi(x) = sqrt(2/M) cos(x W' + p), rows of W from N(0, 2 gamma I), p uniform over a turn.

Differs from the kernel machine of the book in: 1. it is solved in the primal, over w; 2. the kernel is exact on the
span of the landmarks alone (Nystrom), or up to O(1/sqrt(M)) (Fourier).
Measured, seed 0, CPU: a9a linear, squared hinge, C 1: 84.95 % (LIBLINEAR 84.96 %); a9a Gaussian, hinge, C 1, gamma
1/123, 1,000 landmarks: 84.90 % and 11,915 support vectors (LIBSVM 84.82 % and 11,954); MNIST, squared hinge, C 10,
gamma 0.025, 3,000 landmarks, 8 epochs: error 1.78 %.

Shapes: B batch, F input values of one example (the product of ``in_shape``), M components, N output units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.errors import ConfigError, did_you_mean

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
SMALLEST = 1e-7  # eigenvalues below this share of the largest are rounding errors of float32 kernels


class LinearSVM(nn.Module):
    """f(x) = w x + b, one row of w for each output unit.

    Args:
        in_shape: shape of one example; it is flattened.
        out_features: number of output units.
        bias: whether there is a b.
    """

    def __init__(self, in_shape: tuple[int, ...], out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(in_shape), out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, N)."""
        out: Tensor = self.output(x.flatten(1))  # (B, F) -> (B, N)
        return out

    def squared_norm(self) -> Tensor:
        """|w|^2, 0-d; the bias is no part of the margin."""
        return self.output.weight.square().sum()


class GaussianSVM(nn.Module):
    """f(x) = w phi(x) + b, with phi(x) phi(y) close to exp(-gamma |x - y|^2).

    What is trained is w / sqrt(M), for features sqrt(M) phi(x) of mean square 1: so the usual rates suit it.

    Args:
        in_shape: shape of one example; it is flattened.
        out_features: number of output units.
        features: ``nystrom`` (landmarks among the training examples) or ``fourier`` (random waves, blind to the data).
        components: M.
        gamma: of the kernel; ``auto`` is 1 / (F * variance of all training inputs).
        bias: whether there is a b.

    Raises:
        ConfigError: ``features`` is another word, or a number is out of its range.
    """

    lowest_precision: ClassVar[str] = "float32"  # the whitening magnifies what lower precision loses

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_features: int,
        features: str = "nystrom",
        components: int = 1000,
        gamma: float | str = "auto",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if features not in FEATURES:
            raise ConfigError(f"model.features={features}: there is no such kind{did_you_mean(features, FEATURES)}")
        if components < 1:
            raise ConfigError(f"model.components={components} must be at least 1; use for example 1000")
        if gamma != "auto" and not (isinstance(gamma, int | float) and gamma > 0):
            raise ConfigError(f"model.gamma={gamma} must be auto or a positive number, such as 0.01")
        values = math.prod(in_shape)
        self.gamma = gamma
        self.features: NystromFeatures | FourierFeatures = FEATURES[features](
            values, components, 1.0 / values if gamma == "auto" else float(gamma)
        )
        # Zeros: noise in directions that the data hardly have would stay there.
        self.weight = nn.Parameter(torch.zeros(out_features, components))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.scale = math.sqrt(components)

    def prepare(self, batches: Batches) -> None:
        """Learn gamma where it is ``auto``, and the landmarks, from the training inputs."""
        if self.gamma == "auto":
            self.features.gamma.copy_(auto_gamma(batches))
        self.features.prepare(batches)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, N)."""
        scores: Tensor = self.features(x.flatten(1), self.scale * self.weight)
        return scores if self.bias is None else scores + self.bias

    def squared_norm(self) -> Tensor:
        """|w|^2 in the space of the features, 0-d."""
        return (self.scale * self.weight).square().sum()


class NystromFeatures(nn.Module):
    """phi(x) = k(x, landmarks) U L^(-1/2); before ``prepare`` the landmarks are noise and not decorrelated."""

    gamma: Tensor
    landmarks: Tensor
    whiten: Tensor

    def __init__(self, values: int, components: int, gamma: float) -> None:
        super().__init__()
        self.register_buffer("gamma", torch.tensor(gamma))
        self.register_buffer("landmarks", torch.randn(components, values))
        self.register_buffer("whiten", torch.eye(components))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """phi(x) w' for x (B, F) and w (N, M): scores (B, N).

        Computed as k(x) (whiten w'), so the M x M matrix meets N rows of weights and not B examples.
        """
        # The whitening magnifies what lower precision loses. (Shapes are walked on meta, which has no autocast.)
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            return self.kernel(x.float()) @ (self.whiten @ weight.T.float())

    def kernel(self, x: Tensor) -> Tensor:
        """exp(-gamma |x - landmark|^2), (B, M); the square is written out, so that it is one matrix product."""
        own = self.landmarks.square().sum(1)
        exponents = F.linear(x, 2 * self.gamma * self.landmarks, -self.gamma * own)  # (B, F) -> (B, M)
        return (exponents - self.gamma * x.square().sum(1, keepdim=True)).exp()

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Draw the landmarks among the training examples (again and again where they are too few) and whiten them."""
        examples = sum(len(inputs) for inputs, _ in batches())
        rows = torch.randperm(examples).repeat(-(-len(self.landmarks) // examples))[: len(self.landmarks)]
        start = 0
        for inputs, _ in batches():
            mine = ((rows >= start) & (rows < start + len(inputs))).nonzero().flatten()
            self.landmarks[mine.to(inputs.device)] = inputs.flatten(1)[(rows[mine] - start).to(inputs.device)]
            start += len(inputs)
        values, vectors = torch.linalg.eigh(gaussian(self.landmarks.double(), self.gamma.double()))
        kept = values > SMALLEST * values[-1]
        scales = torch.where(kept, values.clamp_min(SMALLEST * values[-1]).rsqrt(), 0.0)
        self.whiten.copy_(vectors * scales)


class FourierFeatures(nn.Module):
    """phi(x) = sqrt(2/M) cos(sqrt(2 gamma) x W' + p), rows of W from N(0, I)."""

    gamma: Tensor
    waves: Tensor
    phases: Tensor

    def __init__(self, values: int, components: int, gamma: float) -> None:
        super().__init__()
        self.register_buffer("gamma", torch.tensor(gamma))
        self.register_buffer("waves", torch.randn(components, values))
        self.register_buffer("phases", torch.rand(components) * (2 * math.pi))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """phi(x) w' for x (B, F) and w (N, M): scores (B, N)."""
        angles = F.linear(x, (2 * self.gamma).sqrt() * self.waves, self.phases)  # (B, F) -> (B, M)
        return angles.cos() @ (weight.T * math.sqrt(2 / len(self.phases)))  # (B, M) -> (B, N)

    def prepare(self, batches: Batches) -> None:
        """Nothing to learn: the waves are drawn without looking at the data."""


FEATURES: dict[str, type[NystromFeatures] | type[FourierFeatures]] = {
    "nystrom": NystromFeatures,
    "fourier": FourierFeatures,
}


def gaussian(points: Tensor, gamma: Tensor) -> Tensor:
    """The kernel between all pairs of points (M, F): (M, M), symmetric to the last bit."""
    squares = points.square().sum(1)
    distances = (squares[:, None] + squares - 2 * points @ points.T).clamp_min(0)
    kernel = (-gamma * distances).exp()
    return (kernel + kernel.T) / 2


def auto_gamma(batches: Batches) -> Tensor:
    """1 / (F * variance of all input values), 0-d; scikit-learn's ``gamma="scale"``; 1 / F for constant inputs."""
    sums = [torch.stack([x.double().sum(), x.double().square().sum()]) for x, _ in batches()]
    sizes = [(x.numel(), len(x)) for x, _ in batches()]
    count, examples = sum(size for size, _ in sizes), sum(size for _, size in sizes)
    total, squares = torch.stack(sums).sum(0)
    variance = squares / count - (total / count).square()
    values = count / examples
    return torch.where(variance > 0, 1 / (values * variance), 1 / values)

"""One step of all lanes: gradient, clipping, optimizer, moving average - each as a run alone would do it.

Shape legend: K lanes, P trainable parameters of a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.packing.flat import Unpackable
from dlrun.packing.gradient import PackedBatch, PackedGradient
from dlrun.packing.optimizers import pack
from dlrun.packing.stack import Stack
from dlrun.tasks import Logs
from dlrun.training.average import Average, ExponentialAverage
from dlrun.training.layout import UNPACKABLE, lies_so
from dlrun.training.updater import Clip, ClipByNorm, ClipByValue, Updater


class PackedStep:
    """The step of K runs, over their stacked tensors.

    Args:
        algorithms: one per lane; their networks and optimizers look into the stack from here on.
        averages: one per lane.

    Raises:
        Unpackable: these runs cannot make their steps together; nothing of them has changed.
    """

    def __init__(self, algorithms: Sequence[Any], averages: Sequence[Average]) -> None:
        updaters = [_updater(algorithm) for algorithm in algorithms]
        models = [algorithm.model for algorithm in algorithms]
        names = {id(p): name for name, p in models[0].named_parameters()}
        self.gradient = PackedGradient(algorithms, [names[id(p)] for p in updaters[0].parameters])
        self.clips = [_clip(clips) for clips in _side_by_side([updater.clips for updater in updaters])]
        self.decays = _decays(averages)
        self.averages = list(averages)
        self.stack = Stack(models, [updater.parameters for updater in updaters])
        self.optimizer = pack([updater.optimizer for updater in updaters], self.stack.layout)
        self.base_rates = torch.tensor([updater.base_rates for updater in updaters], dtype=torch.float64)
        self._rates: tuple[tuple[float, ...], Tensor] | None = None
        self._compiled: Callable[[Tensor, Tensor, Tensor], None] | None = None
        self._shown = False
        self._attach_averages()

    def __len__(self) -> int:
        return len(self.stack)

    def __call__(self, batch: PackedBatch, factors: tuple[float, ...], generators: Sequence[Generator] | None) -> Logs:
        """One step on a batch; what to log, each (K,). ``factors`` are those of the lanes' schedules."""
        stack = self.stack
        logs = self.gradient(stack, batch, generators)
        for limits, clip in self.clips:
            clip(stack.gradients, limits)
        self._update(self._rates_now(factors))
        if self.decays is not None:
            self.average.lerp_(stack.weights, self.decays)
        if not self._shown:  # before its first step a network alone has neither gradients nor an optimizer's state
            self._shown = True
            stack.show_gradients()
            self.optimizer.attach()
        return logs

    def _update(self, rates: Tensor) -> None:
        """The optimizer's step: one loop over memory where the gradient is compiled too."""
        arguments = self.stack.weights, self.stack.gradients, rates
        if not self.gradient.programs:
            self.optimizer.step(*arguments)
            return
        first = self._compiled is None
        try:
            self._compiled = self._compiled or torch.compile(self.optimizer.step, dynamic=False, fullgraph=True)
            self._compiled(*arguments)
        except Exception as error:  # an operation that inductor cannot take; nothing has run then
            if not first:
                raise
            self.gradient.give_up(error)
            self.optimizer.step(*arguments)

    def _rates_now(self, factors: tuple[float, ...]) -> Tensor:
        """Rates (K, groups); made anew only when a factor has changed."""
        if self._rates is None or self._rates[0] != factors:
            column = torch.tensor(factors, dtype=torch.float64)[:, None]
            self._rates = factors, (self.base_rates * column).to(self.stack.weights.device)
        return self._rates[1]

    def _attach_averages(self) -> None:
        if self.decays is None:
            return
        self.average = self.stack.weights.clone()
        for lane, average in enumerate(self.averages):
            assert isinstance(average, ExponentialAverage)
            place = {id(p): i for i, p in enumerate(average.model.parameters())}
            views = self.stack.layout.lane_views(self.average, lane)
            for parameter, view in zip(self.stack.trainable[lane], views, strict=True):
                at = place[id(parameter)]
                view.copy_(average.weights[at])
                average.weights[at] = view

    def keep(self, lanes: Sequence[int]) -> None:
        """Go on with these lanes alone; the others get tensors of their own."""
        index = torch.tensor(lanes)
        self._compiled = None
        self.gradient.keep(lanes)
        self.optimizer.keep(lanes)
        self.stack.keep(lanes)
        self.base_rates, self._rates = self.base_rates[index], None
        self.clips = [(limits[index.to(limits.device)], clip) for limits, clip in self.clips]
        for lane in set(range(len(self.averages))) - set(lanes):
            average = self.averages[lane]
            if isinstance(average, ExponentialAverage):
                average.weights = [weight.clone() for weight in average.weights]
        self.averages = [self.averages[lane] for lane in lanes]
        if self.decays is not None:
            self.decays = self.decays[index.to(self.decays.device)]
            self._attach_averages()


def _updater(algorithm: Any) -> Updater:
    if type(algorithm) is not Backpropagation:
        raise Unpackable(getattr(algorithm, "unpackable", "") or f"{type(algorithm).__name__} has no packed form")
    if lies_so(algorithm.model):
        raise Unpackable(UNPACKABLE)
    updater: Updater = algorithm.updater
    if updater.scaled:
        raise Unpackable("precision=fp16 leaves out steps that overflow, each trial others; use precision=bf16")
    return updater


def _side_by_side(clips: Sequence[tuple[Clip, ...]]) -> list[tuple[Clip, ...]]:
    if len({tuple(type(clip) for clip in lane) for lane in clips}) > 1:
        raise Unpackable("some trials clip their gradients and some do not")
    return list(zip(*clips, strict=True))


def _clip(clips: Sequence[Clip]) -> tuple[Tensor, Any]:
    """Limits (K, 1), and the function that clips gradients (K, P) to them in place."""
    limits = [clip.largest for clip in clips if isinstance(clip, (ClipByNorm, ClipByValue))]
    if len(limits) < len(clips):
        raise Unpackable("gradients are clipped in a way that has no packed form")
    return torch.tensor(limits)[:, None], clip_norms if isinstance(clips[0], ClipByNorm) else clip_values


def clip_norms(gradients: Tensor, largest: Tensor) -> None:
    """Scale every lane's gradient (K, P) down to its norm (K, 1), as ``torch.nn.utils.clip_grad_norm_`` does."""
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    gradients.mul_((largest.to(gradients.device) / (norms + 1e-6)).clamp(max=1.0))


def clip_values(gradients: Tensor, largest: Tensor) -> None:
    """Cut every entry of the gradients (K, P) to its lane's range (K, 1)."""
    limit = largest.to(gradients.device)
    torch.clamp(gradients, -limit, limit, out=gradients)


def _decays(averages: Sequence[Average]) -> Tensor | None:
    """1 - decay (K, 1) of the lanes' moving averages, or None where there are none."""
    moving = [average for average in averages if isinstance(average, ExponentialAverage)]
    if not moving:
        return None
    if len(moving) < len(averages):
        raise Unpackable("some trials average their weights (trainer.ema) and some do not")
    like = moving[0].weights[0]
    return torch.tensor([[1 - average.decay] for average in moving], dtype=like.dtype, device=like.device)

"""The ways of training trials that packing.py compares: one after another, in two processes, packed, as a CUDA graph.

Every way makes steps of training alone: its batches, the gradient, the optimizer. ``go(seconds)`` says how many steps
of single trials were made in how many seconds.
"""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrun.build import Experiment, check
from dlrun.config import compose
from dlrun.data import Examples
from dlrun.data.batches import Batches
from dlrun.loading import load
from dlrun.packing.batches import packed_batches
from dlrun.packing.step import PackedStep
from dlrun.session import network, prepare_process
from dlrun.training.average import NoAverage
from dlrun.training.reporters import Silent

Words = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where and on what trials train; ``examples`` random ones where ``root`` has no data set."""

    root: Path | None
    examples: int
    device: str


class Unchanged:
    """Preprocessing of what is ready."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """As they are."""
        return inputs

    def read(self, path: Path) -> tuple[Tensor, list[str]]:
        """Not of files."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def experiment(words: Sequence[str], place: Place) -> Experiment:
    root = () if place.root is None else (f"data.root={place.root}",)
    made = check(compose([*words, *root, f"trainer.device={place.device}", "trainer.threads=auto"]))
    prepare_process(made)
    return made


@cache
def examples(words: Words, place: Place) -> Batches:
    """The training part; read, or made up, once for all trials of a case."""
    made = experiment(words, place)
    if place.root is not None:
        return load(made).train
    source, facts = torch.Generator().manual_seed(0), made.facts
    x = torch.randn(place.examples, *facts.input_shape, generator=source).to(place.device)
    y = torch.randint(0, facts.num_classes or 2, (place.examples,), generator=source).to(place.device)
    part = Examples(x, y)
    return Batches(part, preprocess=Unchanged(), batch_size=made.batch_size, device=made.device, seed=0)


def trial(words: Words, place: Place, lane: int, rate: float, own: bool) -> tuple[Experiment, Any, Batches]:
    """A trial of a case with a rate of its own, and a seed of its own or the one of all: its network, and its order."""
    train = examples(words, place)
    seed = lane if own else 0
    made = experiment([*words, f"optimizer.lr={rate * (1 + lane / 100)}", f"trainer.seed={seed}"], place)
    model = network(made, torch.arange(10), train, None, Silent())
    model.train()
    return made, made.algorithm(model), train.under(seed)


def timed(step: Callable[[], object], seconds: float, steps: int) -> tuple[float, int]:
    """Seconds and steps of single trials of as many calls as take ``seconds``."""
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not count:
        step()
        count += 1
        if torch.cuda.is_available() and count % 50 == 0:
            torch.cuda.synchronize()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        passed = time.perf_counter() - started
    return passed, count * steps


class Serial:
    """One trial after another; a stretch of one of them, since all take the same time."""

    def __init__(self, words: Words, place: Place, rate: float) -> None:
        made, algorithm, order = trial(words, place, 0, rate, own=False)
        take, batches = made.engine.prepare(algorithm), packed_batches([order], 0)
        self._step = lambda: take(next(batches).of(0))

    def go(self, seconds: float) -> tuple[float, int]:
        """Seconds passed and model-steps made."""
        return timed(self._step, seconds, 1)

    def close(self) -> None:
        """Nothing is held."""


class Pack:
    """All trials as one, eager or compiled."""

    def __init__(self, words: Words, place: Place, rate: float, lanes: int, own: bool, compiled: bool) -> None:
        trials = [trial(words, place, lane, rate, own) for lane in range(lanes)]
        self._lanes, self._batches = lanes, packed_batches([order for _, _, order in trials], 0)
        self._packed = PackedStep([algorithm for _, algorithm, _ in trials], [NoAverage()] * lanes)
        device = trials[0][0].device
        self._generators = [torch.Generator() for _ in trials] if device.type == "cpu" else None
        self._factors = (1.0,) * lanes
        self._packed.gradient.compiles = compiled
        while compiled and not self._packed.gradient.programs:
            self._step()
            if not self._packed.gradient.compiles:
                raise SystemExit("this machine compiles nothing: no C++ compiler")

    def _step(self) -> object:
        return self._packed(next(self._batches), self._factors, self._generators)

    def go(self, seconds: float) -> tuple[float, int]:
        """Seconds passed and model-steps made."""
        return timed(self._step, seconds, self._lanes)

    def close(self) -> None:
        """Forget what was compiled: dynamo keeps eight programs of one function."""
        torch.compiler.reset()


class Processes:
    """Trials in worker processes of one thread each, as ``launcher=local`` with ``--workers 2``."""

    def __init__(self, words: Words, place: Place, rate: float, count: int = 2) -> None:
        context = mp.get_context("spawn")
        self._links: list[Connection[Any, Any]] = []
        self._workers = []
        for _ in range(count):
            here, there = context.Pipe()
            worker = context.Process(target=_work, args=(there, words, place, rate), daemon=True)
            worker.start()
            self._links.append(here)
            self._workers.append(worker)
        for link in self._links:
            link.recv()  # it is ready

    def go(self, seconds: float) -> tuple[float, int]:
        """Seconds passed and model-steps made."""
        for link in self._links:
            link.send(seconds)
        found = [link.recv() for link in self._links]
        return max(passed for passed, _ in found), sum(steps for _, steps in found)

    def close(self) -> None:
        """End the workers."""
        for link, worker in zip(self._links, self._workers, strict=True):
            link.send(None)
            worker.join()


def _work(link: Connection[Any, Any], words: Words, place: Place, rate: float) -> None:
    torch.set_num_threads(1)
    serial = Serial(words, place, rate)
    serial.go(0.2)
    link.send("ready")
    while (seconds := link.recv()) is not None:
        link.send(serial.go(seconds))


class Graph:
    """One trial after another, each step replayed as a CUDA graph on a batch that is copied into place."""

    def __init__(self, words: Words, place: Place, rate: float) -> None:
        _, algorithm, order = trial(words, place, 0, rate, own=False)
        for group in algorithm.updater.optimizer.param_groups:
            group["capturable"] = True
        whole = (batch for batch in packed_batches([order], 0) if len(batch.inputs) == order.batch_size)
        fixed = [tensor.clone() for tensor in next(whole).tensors]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(5):
                algorithm.step((fixed[0], fixed[1]))
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            algorithm.step((fixed[0], fixed[1]))

        def step() -> None:
            for place_of, tensor in zip(fixed, next(whole).tensors, strict=True):
                place_of.copy_(tensor)
            graph.replay()

        self._step = step

    def go(self, seconds: float) -> tuple[float, int]:
        """Seconds passed and model-steps made."""
        return timed(self._step, seconds, 1)

    def close(self) -> None:
        """Nothing is held but memory."""

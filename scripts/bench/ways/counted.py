"""dlrun with its own parts counted: seconds in each callback and in the row, or readings of the device.

For the command ``observability``; the other figures of such a run are not used.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from work import Clock, Trained, Work

from ways.by_dlrun import train as train_plainly

WHILE_TRAINING = ("on_log", "on_evaluation", "on_step")


class Timed:
    """A callback with a clock around what it does while the run trains."""

    def __init__(self, inner: Any, add: Callable[[str, float], None]) -> None:
        self.inner, self.over = inner, False
        for name in WHILE_TRAINING:
            setattr(self, name, self._around(getattr(inner, name), add))

    def _around(self, call: Callable[..., Any], add: Callable[[str, float], None]) -> Callable[..., Any]:
        label = type(self.inner).__name__

        def timed(*args: Any) -> None:
            started = time.perf_counter()
            call(*args)
            if not self.over:  # the best network's test comes after the training
                add(label, time.perf_counter() - started)

        return timed

    def on_end(self, trainer: Any) -> None:
        """The training is over."""
        self.over = True
        self.inner.on_end(trainer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def seconds_counted() -> Iterator[Counter[str]]:
    """Seconds by callback, and of the row itself without what the callbacks make of it."""
    from dlrun.training.trainer import Trainer

    found, calls = Counter[str](), Counter[str]()
    make, log = Trainer.__init__, Trainer.log

    def add(label: str, seconds: float) -> None:
        found[label] += seconds
        calls[label] += 1

    def with_clocks(self: Any, **parts: Any) -> None:
        make(self, **parts | {"callbacks": [Timed(one, add) for one in parts.get("callbacks", ())]})

    def timed_log(self: Any) -> None:
        before, started = sum(found.values()), time.perf_counter()
        log(self)
        found["reading the row"] += time.perf_counter() - started - (sum(found.values()) - before)

    Trainer.__init__, Trainer.log = with_clocks, timed_log  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        Trainer.__init__, Trainer.log = make, log  # type: ignore[method-assign]
    if not calls or "reading the row" not in found:
        raise RuntimeError("no callback and no row was seen: dlrun's trainer has changed, and so must this")


class Readings(TorchDispatchMode):
    """Counts what reads a value from the device, by the function of dlrun that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it; remember who asked."""
        if func is torch.ops.aten._local_scalar_dense.default:
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self) -> None:
        """One reading, unless it is of an evaluation or not of the training."""
        frame, asked, training = sys._getframe(1), "", False
        while frame is not None:
            place, name = frame.f_code.co_filename, frame.f_code.co_name
            if f"{Path('dlrun')}/" in place and "/bench/" not in place:
                asked = asked or f"{Path(place).parent.name}/{Path(place).name}: {name}"
                if Path(place).name == "trainer.py" and name in ("evaluate", "begin", "finish"):
                    return
                training = training or Path(place).name == "trainer.py"
            frame = frame.f_back  # type: ignore[assignment]
        if training:
            self.found[asked] += 1


@contextmanager
def readings_counted() -> Iterator[Counter[str]]:
    """Readings of the device by function of dlrun."""
    mode, plain = Readings(), torch.Tensor.tolist

    def tolist(self: torch.Tensor) -> Any:
        mode.note()
        return plain(self)

    torch.Tensor.tolist = tolist  # type: ignore[method-assign,assignment]
    try:
        with mode:
            yield mode.found
    finally:
        torch.Tensor.tolist = plain  # type: ignore[method-assign]


def train(work: Work, clock: Clock) -> Trained:
    counting = seconds_counted if work.job.get("counted") == "seconds" else readings_counted
    with counting() as found:
        trained = train_plainly(work, clock)
    found.pop("Watch", None)  # by_dlrun's own
    trained.details |= {name: found[name] for name in sorted(found, key=lambda name: -found[name])}
    return trained

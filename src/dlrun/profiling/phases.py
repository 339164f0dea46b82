"""The phases of a training step, put around the public methods of a built trainer's parts and taken off again.

Normal runs have no hook for this: methods are replaced on the objects of the one session that is profiled. An engine
that runs a recorded step calls none of them; its step is then one phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dlrun.algorithms import updaters
from dlrun.algorithms.closure import Closure
from dlrun.profiling.clock import Clock, Key
from dlrun.tasks import Batch
from dlrun.training.callbacks import Callback, Saver
from dlrun.training.taking import one_step
from dlrun.training.trainer import Trainer

DATA: Key = ("", "data wait")
STEP: Key = ("", "step")
AVERAGE: Key = ("", "weight average")
ROW, EVALUATION, SAVE, WATCH = "row", "evaluation", "save", "watch"  # groups of occasions beside the step
RARE = (ROW, EVALUATION, SAVE)

# Methods of algorithms whose time, without what they call, is a phase of its own.
METHODS: dict[str, Key] = {
    "forward": ("", "forward"),
    "improve_discriminator": ("discriminator", "forward"),
    "improve_generator": ("generator", "forward"),
    "_dream": ("", "negative phase"),
    "_learn": ("", "layer's contrastive divergence"),
}
MOVES = {"zero_grad": "zero_grad", "backward": "backward", "step": "optimizer"}
NAMES = {"Recorder": "history", "Progress": "progress", "Saver": "checkpoints", "TensorBoard": "TensorBoard"}

_MISSING = object()


class Patches:
    """Attributes set on objects, and what was there before."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of this one object."""
        self._before.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Everything as it was."""
        while self._before:
            owner, name, value = self._before.pop()
            if value is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def patch_algorithm(patches: Patches, clock: Clock, algorithm: Any) -> None:
    """Phases inside an algorithm's step."""
    for name, key in METHODS.items():
        if hasattr(algorithm, name):
            patches.put(algorithm, name, clock.spanned(key, getattr(algorithm, name)))
    for group, updater in updaters(algorithm).items():
        for name, phase in MOVES.items():
            patches.put(updater, name, clock.spanned((group, phase), getattr(updater, name)))
        clips = tuple(clock.spanned((group, "clip"), clip) for clip in updater.clips)
        patches.put(updater, "clips", clips)
        if isinstance(algorithm, Closure):  # its optimizer asks for the loss itself, and is called without the updater
            patches.put(updater.optimizer, "step", clock.spanned((group, "optimizer"), updater.optimizer.step))


def recorded(trainer: Trainer) -> bool:
    """Whether an engine replays this trainer's steps. One that has given up takes them as they are written."""
    steps = getattr(trainer.take, "__self__", None)
    return trainer.take is not one_step and not getattr(steps, "given_up", "")


def as_written(trainer: Trainer) -> bool:
    """Whether the network's own modules run in a step: it is neither recorded nor compiled."""
    algorithm = trainer.algorithm
    return not recorded(trainer) and trainer.take_step == algorithm.step and "forward" not in vars(algorithm)


def own_phase(algorithm: Any) -> Key:
    """What the time of a step is called that no method of its own takes."""
    return ("", "positive phase") if hasattr(algorithm, "_dream") else STEP


class Watching(Callback):
    """A callback seen as a phase of its own at every occasion."""

    def __init__(self, clock: Clock, inner: Any) -> None:
        kind = type(inner).__name__
        name = NAMES.get(kind, kind)
        self.on_step = clock.spanned((WATCH, name), inner.on_step)  # type: ignore[method-assign]
        self.on_log = clock.spanned((ROW, name), inner.on_log)  # type: ignore[method-assign]
        self.on_evaluation = clock.spanned((EVALUATION, name), inner.on_evaluation)  # type: ignore[method-assign]


class Instrument:
    """Phases around everything that one trainer does; the rare ones at all times, the others while they are wanted.

    Args:
        trainer: built, not yet begun.
        unseen: callbacks that are left as they are.
    """

    def __init__(self, trainer: Trainer, clock: Clock, unseen: Sequence[Callback] = ()) -> None:
        self.trainer, self.clock, self.unseen = trainer, clock, tuple(unseen)
        self._steps, self._rare = Patches(), Patches()
        put, rarely = self._rare.put, clock.rarely
        put(trainer, "log", rarely((ROW, "row"), trainer.log))
        put(trainer, "evaluate", rarely((EVALUATION, EVALUATION), trainer.evaluate))
        put(trainer.train, "epoch", self._watched(trainer.train.epoch))
        for callback in trainer.callbacks:
            if isinstance(callback, Saver):
                put(callback, "save", rarely((SAVE, "checkpoints"), callback.save))

    def install(self) -> None:
        """Put the phases of a step on."""
        trainer, clock, put = self.trainer, self.clock, self._steps.put
        if recorded(trainer):  # nothing is called at a replay, and a recording must not hold stamps
            put(trainer, "take", clock.spanned(STEP, trainer.take))
        else:
            patch_algorithm(self._steps, clock, trainer.algorithm)
            put(trainer, "take_step", clock.spanned(own_phase(trainer.algorithm), trainer.take_step))
            put(trainer.average, "update", clock.spanned(AVERAGE, trainer.average.update))
        put(trainer, "callbacks", [c if c in self.unseen else Watching(clock, c) for c in trainer.callbacks])

    def remove(self) -> None:
        """Take the phases of a step off."""
        self._steps.undo()

    def close(self) -> None:
        """Leave the trainer as it was."""
        self.remove()
        self._rare.undo()

    def _watched(self, epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        """The iterator outlives the blocks, so it asks each time whether its phase is wanted."""
        clock = self.clock

        def watched(*args: Any, **kwargs: Any) -> Iterator[Batch]:
            batches = epoch(*args, **kwargs)
            while True:
                detailed = clock.detailed
                if detailed:
                    clock.enter(DATA)
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                finally:
                    if detailed:
                        clock.leave()
                yield batch

        return watched


def quiet(key: Key) -> bool:
    """Whether a phase belongs to every step, and not to the rows, evaluations and checkpoints now and then."""
    return key[0] not in RARE

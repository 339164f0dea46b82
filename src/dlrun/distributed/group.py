"""The processes of a run: what each of them does, and what they agree on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

from dlrun.data.hashing import mix
from dlrun.data.sharing import Keep
from dlrun.distributed.messages import Messages, note
from dlrun.distributed.watch import KILLED, wait_for
from dlrun.distributed.world import World
from dlrun.errors import ConfigError, DlrunError
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.signals import StopFlag

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlrun.training.callbacks import Callback, Saver
    from dlrun.training.checkpoint import Checkpoints
    from dlrun.training.trainer import Trainer

AGREE_EVERY = 0.5  # seconds between two agreements
MOST_QUESTIONS = 100  # between two agreements, for an evaluation asks less often than training
NOISE = 3  # the stream of numbers for dropout and sampling, beside those of dlrun.data.batches


class PeerLostError(DlrunError):
    """Another process of the run ended before its time; ``exit_code`` is that process's, 137 where it was killed."""

    exit_code = KILLED

    def __init__(self, sentence: str, code: int = KILLED) -> None:
        super().__init__(sentence)
        self.exit_code = code


class Together:
    """This process among several: ``dlrun.training.peers.Peers`` over torch.distributed.

    An agreement takes place at every n-th question for the stop flag, about twice a second; the first process says in
    each when the next one is.
    """

    def __init__(self, world: World, messages: Messages, device: torch.device) -> None:
        self.rank, self.size, self.local_rank = world.rank, world.size, world.local_rank
        self.local_size = world.local_size
        self.messages = messages
        self.device = device
        self.seed = self.step = 0
        self.run: RunDirectory | None = None
        self._own: StopFlag | None = None
        self._questions, self._next, self._interval = 0, 1, 1
        self._since = time.monotonic()
        self._mine = self._first_seconds = 0.0
        self._ending: str | None = None
        self._ends = False
        self._wish = self._granted = False
        self._turns = 0

    def begin(self, run: RunDirectory, seed: int, config: str, checkpoint: Path | None = None) -> None:
        """Tell the others, as JSON, what is trained, in which run, and from which checkpoint."""
        self.run, self.seed = run, seed
        note("run", str(run.path))
        order = {"config": config, "run": str(run.path), "seed": seed, "checkpoint": str(checkpoint or "")}
        self.messages.tell("order", json.dumps(order))

    def release(self) -> None:
        """Let the others go where the first process found nothing to train."""
        if self.run is None:
            self.messages.tell("order", "null")

    def order(self) -> dict[str, Any] | None:
        """What the first process has told, None for nothing to do; PeerLostError when it has ended instead."""
        text = self.messages.wait("order")
        if text is None:
            raise self.lost() or PeerLostError("the first process has said nothing for a day")
        found: dict[str, Any] | None = json.loads(text)
        self.seed = found["seed"] if found else 0
        return found

    def last_words(self) -> None:
        """Before a process ends that failed: the keeper of the store waits a moment until the others know why."""
        with suppress(RuntimeError):
            self.messages.tell(f"ended/{self.rank}", "")
            if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                wait_for(lambda: all(self.messages.heard(f"ended/{r}") is not None for r in range(self.size)), 3.0)

    def set_devices(self, config: DictConfig) -> None:
        """Write into a configuration on how many devices it is trained: those that torchrun or Slurm has started."""
        if config.trainer.devices not in (1, self.size):
            raise ConfigError(
                f"trainer.devices={config.trainer.devices}, but {self.size} processes were started; leave it out"
            )
        config.trainer.devices = self.size

    def in_turn(self, work: Callable[[bool], None], stop: StopFlag) -> None:
        """The first process works, the others wait for it; a signal that ended its work ends theirs before it."""
        self._turns += 1
        key = f"first/{self._turns}"
        if self.rank == 0:
            work(True)
            self.messages.tell(key, str(stop.number))  # bool(stop) would ask the others, who wait for this
        elif (text := self.messages.wait(key)) is not None:
            stop.number = int(text) or stop.number
            if not stop.number:
                work(False)

    def keep(self) -> Keep:
        """Large data lies once for all processes of a machine."""
        from dlrun.distributed.memory import Shared

        return Shared(self)

    def sink(self, checkpoints: Checkpoints) -> Checkpoints:
        """All processes gather the state, and the first one writes it."""
        from dlrun.distributed.saving import SharedCheckpoints

        shared: Any = SharedCheckpoints(checkpoints if self.rank == 0 else None, self)
        return cast("Checkpoints", shared)  # of which a saver uses save and save_best

    def watchers(self, usual: Sequence[Callback], saver: Saver, own: Sequence[Callback]) -> list[Callback]:
        """All processes save together; the first one writes and reports."""
        from dlrun.distributed.saving import SharedSaver

        shared = SharedSaver(saver, self)
        return [*usual, shared, *own] if self.rank == 0 else [shared]

    def agreed(self, own: StopFlag) -> StopFlag:
        """The flag of all processes; each question of ``bool`` is counted, and some of them are agreements."""
        self._own = own
        return StopFlag(self._ask)

    def clock(self, seconds: float) -> float:
        """The training time that the first process had at the last agreement."""
        self._mine = seconds
        return self._first_seconds

    def ending(self, reason: str | None) -> str | None:
        """What a callback of the first process asked for, from the next agreement on."""
        self._ending = reason if self.rank == 0 else None
        return "pruned" if self._ends else None

    def wished(self, mine: bool) -> bool:
        """Whether the first process wished something (``mine``) before the last agreement; true once for each."""
        granted, self._granted = self._granted, False
        self._wish = mine and not granted
        return granted

    def _ask(self) -> int:
        self._questions += 1
        if self._questions < self._next:
            return 0
        number = self._own.number if self._own else 0
        mine = [float(number), 0.0, 0.0, 0.0, 0.0]
        if self.rank == 0:
            mine[1:] = [float(self._ending is not None), self._mine, float(self._wish), float(self._pace())]
        told = torch.tensor(mine, dtype=torch.float64)
        with self.explained():
            dist.all_reduce(told, op=dist.ReduceOp.MAX)
        agreed, ends, self._first_seconds, wish, interval = told.tolist()
        self._ends, self._granted = self._ends or bool(ends), self._granted or bool(wish)
        self._next = self._questions + int(interval)
        return int(agreed)

    def _pace(self) -> int:
        """Questions until the next agreement, from how fast they came since the last one."""
        now = time.monotonic()
        rate = self._interval / max(now - self._since, 1e-6)
        self._interval = max(1, min(int(rate * AGREE_EVERY), 2 * self._interval, MOST_QUESTIONS))
        self._since = now
        return self._interval

    def begin_step(self) -> None:
        """Draw this step's random numbers from a stream that is a function of (seed, step, rank)."""
        self.step += 1
        seed = mix(self.seed, self.step, NOISE, self.rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def same(self, metrics: dict[str, float]) -> dict[str, float]:
        """The first process's values: two GPUs may differ in the last bits, and decisions hang on them.

        The questions of an evaluation come faster than those of training, which are agreed on at their own pace again.
        """
        self._next, self._interval, self._since = self._questions + 1, 1, time.monotonic()
        values = torch.tensor(list(metrics.values()), dtype=torch.float64)
        with self.explained():
            dist.broadcast(values, 0)
        return dict(zip(metrics, values.tolist(), strict=True))

    def spread(self, trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
        """The state with its tensors distributed as this process holds them."""
        from dlrun.distributed.saving import spread

        self.step = state.get("step", self.step)
        return spread(trainer, state)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A collective that fails because another process has ended says so: PeerLostError."""
        try:
            yield
        except RuntimeError as error:
            lost = self.lost()
            if lost is None:
                raise
            raise lost from error

    def lost(self, patience: float = 2.0) -> PeerLostError | None:
        """Why another process has ended, if one has."""
        found: list[int] = []

        def gone() -> bool:
            rank = self._watch_lost()
            found.extend([] if rank is None else [rank])
            return bool(found) or self.messages.failure() is not None

        if not wait_for(gone, patience):
            return None
        wait_for(lambda: self.messages.failure() is not None, 0.3)
        return self.obituary(found[0] if found else -1)

    def obituary(self, rank: int) -> PeerLostError:
        """The error for the end of a process, in its own words where it left some."""
        failure = self.messages.failure()
        if failure is not None:
            who = f"process {failure['rank'] + 1} of {self.size}"
            return PeerLostError(f"{who} failed: {failure['sentence']}", failure["code"])
        return PeerLostError(
            f"process {rank + 1} of {self.size} ended without a word (killed, or out of memory); the run cannot go on "
            "without it"
        )

    _watch_lost: Callable[[], int | None] = staticmethod(lambda: None)


JOINED: list[Together] = []


def current() -> Together | None:
    """The processes that this one has joined; None when it is alone."""
    return JOINED[-1] if JOINED else None

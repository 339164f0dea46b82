"""The recipe for a pack: many trials of one sweep in one process, each of them a run like any other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from dlrun.build import Experiment, check
from dlrun.loading import Loaded, load
from dlrun.packing.flat import Unpackable
from dlrun.packing.pack import Pack
from dlrun.run import Outcome, begin_record, describe_experiment, finish, new_run
from dlrun.session import Session, open_session, prepare_process, record_start, recorded
from dlrun.sweeps.child import composed, guarded
from dlrun.sweeps.endings import about
from dlrun.sweeps.measuring import Pace, measure
from dlrun.sweeps.nouns import Ending, Trial
from dlrun.training.callbacks import Callback, Reporter, Saver
from dlrun.training.randomness import random_state
from dlrun.training.signals import StopFlag, watch_signals


def train_pack(
    trials: Sequence[Trial],
    *,
    trusted: Sequence[str],
    callbacks_of: Callable[[int], Sequence[Callback]],
    ended: Callable[[int, Ending], None],
    reporter: Reporter,
    alive: Callable[[], None] = lambda: None,
    chooses: bool = True,
) -> None:
    """Train trials that differ in numbers only as one stacked network.

    Args:
        callbacks_of: what watches a lane beside the usual callbacks.
        ended: told of each lane as soon as it has ended.
        alive: called now and then before the lanes' own callbacks are.
        chooses: whether the pack is left where its trials turn out to be faster one by one.

    Raises:
        Unpackable: they cannot, or had better not, train together; no run has begun then.
        SystemExit: a signal interrupted the pack; every run is saved.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiling processes beside a pack
    with watch_signals() as stop:
        experiments = [check(composed(trial), trusted) for trial in trials]
        _refuse_unlike(experiments)
        prepare_process(experiments[0])
        loaded = load(experiments[0])
        alive()
        pace = _measured(experiments, loaded, chooses, reporter)
        if stop:
            sys.exit(128 + stop.number)
        starter = _Starter(trusted, loaded, reporter, stop, len(trials))
        ends, lanes = _Ends(ended), dict[int, _Lane]()
        for place, trial in enumerate(trials):
            try:
                lanes[len(lanes)] = starter.begin(place, trial, callbacks_of(place))
            except Exception as error:  # of this trial alone, and in its record
                ends.tell(place, _raising(error))

        def close(number: int, what: str | BaseException) -> None:
            lane = lanes.pop(number)  # an ended run's memory is given back
            ends.tell(lane.place, lambda: lane.finish(what, reporter, stop))

        if lanes:
            begun = list(lanes.values())
            pack = Pack([lane.session.trainer for lane in begun], [lane.random for lane in begun], close)
            begun.clear()
            pack.compile(pace.compiles)
            pack.train()
    if ends.interrupted:
        sys.exit(ends.interrupted)


def _measured(experiments: Sequence[Experiment], loaded: Loaded, chooses: bool, reporter: Reporter) -> Pace:
    """How fast they are together; refused where that is slower and somebody minds."""
    steps = experiments[0].settings.plan(len(loaded.train), 1).total_steps
    pace = measure(experiments, loaded, steps)
    reporter.note(f"a pack of {len(experiments)} trials; {pace}")
    if chooses and not pace.pays:
        raise Unpackable(f"one by one they are faster ({pace})")
    return pace


def _refuse_unlike(experiments: Sequence[Experiment]) -> None:
    """Refuse trials whose data, batches or ends are not the same, whatever their configurations looked like."""
    first = experiments[0]
    for other in experiments:
        if (other.node["data"], other.batch_size, other.settings.limit) != (
            first.node["data"], first.batch_size, first.settings.limit,
        ):  # fmt: skip
            raise Unpackable("their data or their batches differ")
        if other.settings.budget is not None:
            raise Unpackable("trainer.budget is a time of its own for each trial")


@dataclass
class _Ends:
    """Tells how lanes end, but for those that a signal interrupts: they are saved and have not ended."""

    ended: Callable[[int, Ending], None]
    interrupted: int = 0

    def tell(self, place: int, training: Callable[[], Outcome]) -> None:
        """Let a lane's run come to its end."""
        try:
            self.ended(place, guarded(training))
        except SystemExit as end:
            self.interrupted = end.code if isinstance(end.code, int) else 1


@dataclass
class _Lane:
    """A run of the pack; ``held`` writes down how it ends and lets go of its lock."""

    place: int
    session: Session
    random: dict[str, object]
    held: ExitStack

    def finish(self, what: str | BaseException, reporter: Reporter, stop: StopFlag) -> Outcome:
        """Test the best network and write the final record; or raise what ended the run, which is written down."""
        with self.held:
            if isinstance(what, BaseException):
                raise what
            return finish(self.session, what, reporter, stop)


@dataclass
class _Starter:
    """Begins runs as ``dlrun.run.train`` does, on data that are read once."""

    trusted: Sequence[str]
    loaded: Loaded
    reporter: Reporter
    stop: StopFlag
    count: int

    def begin(self, place: int, trial: Trial, callbacks: Sequence[Callback]) -> _Lane:
        """One run, ready to train; raises what ends it before it begins."""
        experiment = check(composed(trial), self.trusted)
        run = new_run(experiment, trial.folder.parent, trial.folder)
        run.lock()
        with ExitStack() as held:
            held.enter_context(recorded(run))
            begin_record(experiment, run, list(trial.command), about(trial) | {"packed": self.count})
            if not place:
                self.reporter.experiment(describe_experiment(experiment), run.path)
            loaded = self.loaded.under(experiment.settings.seed)
            session = open_session(experiment, run, self.reporter, self.stop, callbacks=callbacks, loaded=loaded)
            record_start(session)
            for callback in session.trainer.callbacks:
                if isinstance(callback, Saver):  # all lanes together may take what one run may
                    callback.share /= self.count
            return _Lane(place, session, random_state(), held.pop_all())


def _raising(error: Exception) -> Callable[[], Outcome]:
    def training() -> Outcome:
        raise error

    return training

"""``dlrun sweep WORDS...``: many trials as one object; also ``dlrun train --multirun``."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli import ranks
from dlrun.cli.failures import say
from dlrun.cli.shared import config_dirs, no_more, outputs, take_trust
from dlrun.cli.tables import print_json
from dlrun.cli.text import clock, number, printable
from dlrun.errors import ConfigError

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments
    from dlrun.cli.sweep_screen import SweepScreen
    from dlrun.sweeps.plan import Plan
    from dlrun.sweeps.sweep import Sweep

SHOWN = 40  # points that a dry run prints


def run(arguments: Arguments) -> int:
    """Sweep, go on with a sweep, only print what would be done, or work for a master elsewhere."""
    words, trusted = take_trust(arguments.words)
    worker, resumed = arguments.text("--worker"), arguments.text("--resume")
    if worker is not None:
        return _work(Path(worker), trusted)
    _alone()
    if resumed is not None:
        no_more("sweep --resume", words, "no overrides: the sweep goes on as it was begun")
        return _resume(arguments, resumed, trusted)
    if not words and not arguments.flag("--dry-run"):
        raise ConfigError(
            "'dlrun sweep' wants something to sweep, as optimizer.lr=1e-3,1e-2 or seeds=5 ('dlrun sweep --help')"
        )
    from dlrun.sweeps.plan import make_plan

    screen = sys.stderr if arguments.flag("--json") else sys.stdout
    workers = arguments.number("--workers", least=1, most=10_000)
    with make_plan(words, config_dirs(arguments), workers=workers, trusted=trusted, progress=_checking()) as plan:
        if arguments.flag("--dry-run"):
            return _dry_run(arguments, plan)
        from dlrun.sweeps.master import elsewhere, launcher_of
        from dlrun.sweeps.sweep import begin

        if elsewhere(plan.settings):
            launcher_of(plan.settings, trusted)  # a cluster that is not there is found before anything is made
        print(f"{plan.trials:,} trials of {plan.count:,} points are checked", file=screen, flush=True)
        command = ["dlrun", *arguments.command]
        sweep = begin(plan, outputs(arguments), command=command, trusted=trusted, again=arguments.flag("--again"))
    return _carry_out(arguments, sweep)


def _alone() -> None:
    """Refuse to sweep in each of several processes."""
    if ranks.world() is not None:
        raise ConfigError(
            "torchrun or srun has started several processes, and each would do the whole sweep; start one without them "
            "(--workers N for more at a time, launcher=slurm on a cluster)"
        )


def _resume(arguments: Arguments, text: str, trusted: tuple[str, ...]) -> int:
    """Go on with a sweep where it was begun; ``--workers`` may be others than then."""
    from dlrun.sweeps.sweep import ended, open_sweep
    from dlrun.tracking.sweep_directory import SweepDirectory

    for option in ("--again", "--config-dir"):
        if arguments.flag(option):
            raise ConfigError(f"{option} is for a new sweep; one that goes on does so as it was begun")
    workers = arguments.number("--workers", least=1, most=10_000)
    directory = SweepDirectory.find(text, outputs(arguments))
    if arguments.flag("--dry-run"):
        result = open_sweep(directory, trusted).result()
        print(f"{directory.name}: {ended(result):,} of {result.planned or len(result.points):,} points have ended")
        return 0
    directory.lock()
    sweep = _there(open_sweep(directory, trusted))
    if workers is not None:
        sweep.settings = dataclasses.replace(sweep.settings, workers=workers)
    return _carry_out(arguments, sweep)


def _there(sweep: Sweep) -> Sweep:
    """Work where the sweep was begun: its trials name their files from there."""
    cwd = str(sweep.about["cwd"])
    try:
        os.chdir(cwd)
    except OSError as error:
        raise ConfigError(
            f"{cwd}, where {sweep.directory.name} was begun, cannot be entered ({error.strerror}); its trials would "
            "look for their files in another place"
        ) from error
    return sweep


def _carry_out(arguments: Arguments, sweep: Sweep) -> int:
    """Work until the end, then print the tables; 1 when a trial failed, 128 + n when signal n stopped the sweep."""
    from dlrun.cli.sweep_tables import as_json
    from dlrun.sweeps.master import carry_out
    from dlrun.sweeps.sweep import finished

    with _screen(arguments) as screen:
        result, signal = carry_out(sweep, screen)
        if arguments.flag("--json"):
            print_json(as_json(result, sweep.words))
        else:
            screen.closing(result, sweep.words)
    sweep.search.close()
    sweep.directory.unlock()
    if signal:
        say(f"stopped by a signal; everything is saved; go on with: dlrun sweep --resume {sweep.directory.name}")
        return 128 + signal
    if not finished(result):
        return 1  # the workers are gone, and the screen has said so
    failed = sum(trial.status in ("failed", "diverged") for point in result.points for trial in point.trials)
    if failed:
        say(f"{failed} of {sum(len(point.trials) for point in result.points)} trials failed")
    return 1 if failed else 0


def _work(folder: Path, trusted: tuple[str, ...]) -> int:
    from dlrun.sweeps.master import work
    from dlrun.sweeps.sweep import open_sweep
    from dlrun.tracking.sweep_directory import SweepDirectory

    signal = work(_there(open_sweep(SweepDirectory.open(folder), trusted, worker=True)))
    return 128 + signal if signal else 0


def _dry_run(arguments: Arguments, plan: Plan) -> int:
    """Print the points, and about how long they would take."""
    from dlrun.sweeps.estimate import estimate

    points = plan.points if plan.settings.sampler == "grid" else ()
    found = estimate(plan)
    if arguments.flag("--json"):
        print_json(
            {
                "points": [{"values": point.values, "overrides": point.overrides} for point in points],
                "count": plan.count,
                "seeds": plan.space.seeds,
                "steps": found.steps,
                "seconds": found.seconds,
            }
        )
        return 0
    for i, point in enumerate(points[:SHOWN]):
        print(f"{i:5} {printable(point.label)}")
    if len(points) > SHOWN:
        print(f"  ... {len(points) - SHOWN:,} more")
    for axis in () if points else plan.space.axes:
        ends = " or ".join(axis.values) or f"from {axis.low:g} to {axis.high:g}{', logarithmic' if axis.log else ''}"
        print(f"{printable(axis.key)}: {printable(ends)}")
    print(f"{plan.count:,} points x {len(plan.space.seeds)} seeds = {plan.trials:,} trials, ranked by", end=" ")
    print(f"{plan.checked.metric}; {len(plan.points):,} points were composed and checked")
    steps = "a budget of time" if found.steps is None else f"{found.steps:,} steps a trial"
    print(f"about {clock(found.seconds)} with {plan.settings.workers} at a time: {steps}, and", end=" ")
    print(f"{number(found.step_seconds * 1e3)} ms for a step of the first point; evaluations and packs are not counted")
    return 0


@contextmanager
def _screen(arguments: Arguments) -> Iterator[SweepScreen]:
    from dlrun.cli.sweep_screen import make_sweep_screen

    screen = make_sweep_screen(sys.stderr if arguments.flag("--json") else sys.stdout)
    try:
        yield screen
    finally:
        screen.stop()


def _checking() -> Callable[[int, int], None]:
    """Says how far the check is where it takes long, on a terminal."""

    def progress(done: int, total: int) -> None:
        if total > 50 and sys.stderr.isatty() and (done % 10 == 0 or done == total):
            print(f"\rchecking {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return progress

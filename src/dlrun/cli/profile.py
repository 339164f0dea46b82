"""``dlrun profile OVERRIDES...``: where the time of a training goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.shared import config_dirs, outputs, reporting, take_trust
from dlrun.cli.tables import print_json, print_tables
from dlrun.cli.text import printable

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments
    from dlrun.profiling.report import Profile

FOLDER = "profile"  # of traces, under the folder of runs, where 'dlrun board' finds it


def run(arguments: Arguments) -> int:
    """Measure, then print the tables and the verdict."""
    from dlrun.config import compose

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler speaks to standard error; read when torch loads
    overrides, trusted = take_trust(arguments.words)
    config = compose(overrides, config_dirs(arguments))
    steps = arguments.number("--steps", least=1, most=1_000_000)
    trace = _trace(arguments)

    from dlrun.profiling.recipe import Wishes, profile
    from dlrun.profiling.timings import Limits

    wishes = Wishes(Limits(steps=steps), trace, arguments.flag("--try-compile"))
    with reporting(arguments) as reporter:
        found = profile(config, arguments.words, wishes, reporter, trusted)
    if arguments.flag("--json"):
        from dlrun.profiling.report import as_json

        sys.stderr.flush()
        print_json(as_json(found))
        return 0
    show(found, beside_runs=trace is not None and not arguments.text("--trace"))
    return 0


def _trace(arguments: Arguments) -> Path | None:
    if not arguments.flag("--trace"):
        return None
    text = arguments.text("--trace")
    return Path(text).expanduser() if text else outputs(arguments) / FOLDER


def show(found: Profile, beside_runs: bool) -> None:
    """The tables, the notes and, last, where the eye falls: the verdict.

    Args:
        beside_runs: the trace lies in the folder of runs.
    """
    from dlrun.cli.profile_screens import tables, verdict

    print_tables(tables(found))
    print()
    for note in found.notes + found.trials.left_out:
        print(f"note: {printable(note)}")
    if found.trace is not None:
        print(f"trace: {printable(found.trace)}")
        print("  open it at https://ui.perfetto.dev (nothing is uploaded), or in chrome://tracing")
        if found.trace.name.endswith(".pt.trace.json.gz"):
            where = "" if beside_runs else f" --outputs {printable(found.trace.parents[3])}"
            print(f"  or in TensorBoard with the plug-in torch-tb-profiler: dlrun board{where}")
    print()
    for line in verdict(found.verdict):
        print(printable(line))

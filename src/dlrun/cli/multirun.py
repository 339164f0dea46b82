"""``dlrun train --multirun``: every point of a grid, one after another, each in a process of its own.

All points are composed and checked before the first starts, so that neither a mistake in the last one nor an edit of a
config file in between is found after hours. A point that fails is reported at once and does not stop the others.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from dlrun.cli import screens
from dlrun.cli.failures import say
from dlrun.cli.shared import config_dirs, outputs
from dlrun.cli.tables import Table, print_json, print_tables
from dlrun.cli.text import clock, number, printable
from dlrun.errors import ConfigError

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments


def run_all(arguments: Arguments, overrides: list[str], trusted: tuple[str, ...]) -> int:
    """Train every point; 0 when all succeed, else the highest code of a point, 128+n when a signal stops the whole."""
    from dlrun.config import expand

    if arguments.flag("--cfg"):
        raise ConfigError("--cfg prints one config and --multirun makes many; leave one of them out")
    points = expand(overrides, config_dirs(arguments))
    common = ["--outputs", str(outputs(arguments)), "--json"]
    common += [word for folder in config_dirs(arguments) for word in ("--config-dir", str(folder))]
    common += ["--debug"] if arguments.flag("--debug") else []
    common += [f"trust=[{','.join(trusted)}]"] if trusted else []
    screen = sys.stderr if arguments.flag("--json") else sys.stdout
    varied = swept(points)
    rows: list[dict[str, Any]] = []
    stopped = 0
    for i, point in enumerate(points):
        label = " ".join(varied[i]) or "as composed"
        print(f"[{i + 1}/{len(points)}] {printable(label)}", file=screen, flush=True)
        row, stopped = _train([*point, *common], screen)
        rows.append({"overrides": point, "varied": varied[i], **row})
        if stopped:
            break
    if arguments.flag("--json"):
        print_json(rows)
    else:
        print()
        print_tables([table(rows)])
    failed = sum(row["exit_code"] != 0 for row in rows)
    if stopped:
        say(f"stopped by a signal; {len(points) - len(rows)} of {len(points)} points were not started")
    elif failed:
        say(f"{failed} of {len(points)} points failed")
    return stopped or max((row["exit_code"] for row in rows), default=0)


def swept(points: list[list[str]]) -> list[list[str]]:
    """Of each point, the overrides that not all points share."""
    common = set(points[0]).intersection(*points[1:]) if points else set()
    return [[word for word in point if word not in common] for point in points]


def table(rows: list[dict[str, Any]]) -> Table:
    """The points with what they came to."""
    lines = []
    for row in rows:
        name = screens.leading(row["metrics"])
        result = f"{name} {number(float(row['metrics'][name]))}" if name else ""
        run = row["path"].rpartition("/")[2] if row["path"] else ""
        lines.append((" ".join(row["varied"]), row["status"], result, clock(row["seconds"]), run))
    return Table("multirun", ("point", "status", "result", "time", "run"), "lllrl", lines)


def _train(words: list[str], screen: TextIO) -> tuple[dict[str, Any], int]:
    """One point in its own process: its row, and the exit code of the signal that stopped this one, or 0.

    The child shows its screens where this process does and answers with JSON through a pipe.
    """
    started = time.monotonic()
    child = subprocess.Popen(child_command(words), stdout=subprocess.PIPE, stderr=_inherited(screen), text=True)
    with _forwarding(child) as signals:
        answer, _ = child.communicate()
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    try:
        outcome = json.loads(answer)
    except ValueError:  # refused or killed before it could answer
        outcome = {"path": None, "status": "failed", "metrics": {}}
    row = {
        "status": outcome["status"],
        "exit_code": code,
        "metrics": {name: float(value) for name, value in outcome["metrics"].items()},
        "seconds": round(time.monotonic() - started, 2),
        "path": outcome["path"],
    }
    return row, 128 + signals[0] if signals else 0


def child_command(words: list[str]) -> list[str]:
    """The command of one point's process."""
    return [sys.executable, "-m", "dlrun", "train", *words]


@contextmanager
def _forwarding(child: subprocess.Popen[str]) -> Iterator[list[int]]:
    """While the child works, a signal to this process lets it save and end, and is noted in the list.

    Ctrl-C in a terminal reaches the child by itself; a signal sent to this process alone is passed on.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if number == signal.SIGTERM or not sys.stdin.isatty():
            child.send_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _inherited(screen: TextIO) -> int | None:
    """The descriptor behind ``screen``; None (the child's own standard error) when it is not a real file."""
    try:
        screen.flush()
        return screen.fileno()
    except (OSError, ValueError):
        return None

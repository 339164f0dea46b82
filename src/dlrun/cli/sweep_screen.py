"""What a sweep says while it works: on a terminal a live table, in a pipe a plain line for each trial that ends.

Nothing runs in the background: the table is drawn when the sweep calls ``update``, at most five times a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from dlrun.cli import sweep_tables as tables
from dlrun.cli.failures import print_on
from dlrun.cli.sweep_clock import Clocks, Running
from dlrun.cli.tables import Table, interactive, plain_table, rich_console, rich_table
from dlrun.cli.text import clock, number, printable
from dlrun.sweeps.nouns import DIVERGED, FAILED, TERMINAL
from dlrun.sweeps.results import counts

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from dlrun.sweeps.nouns import PointResult, SweepResult, TrialResult

PLAIN_INTERVAL = 10.0  # seconds between two lines of progress in a pipe
REDRAW = 0.2  # seconds between two drawings of the live table
AGAIN = "the best trial again:"
FAILURES = 3  # the last ones, shown in the live table
BAR = 30  # columns of the bar where there is room


class SweepScreen(Protocol):
    """What a person sees of a sweep."""

    def begin(self, result: SweepResult, path: Path) -> None:
        """The sweep's name, size and folder; trials that ended before (it goes on) count as ended."""
        ...

    def note(self, text: str) -> None:
        """One sentence of information."""
        ...

    def warn(self, text: str) -> None:
        """One sentence about something that may be wrong."""
        ...

    def update(self, result: SweepResult, running: Running) -> None:
        """How it stands; ``running`` has a few words (step, last value) by point number and seed."""
        ...

    def ended(self, point: PointResult, trial: TrialResult) -> None:
        """One trial has ended."""
        ...

    def closing(self, result: SweepResult, more: Sequence[str] = ()) -> None:
        """The ranked table, importances, failures, files and the best trial's command line with ``more`` words."""
        ...

    def stop(self) -> None:
        """End the live table; harmless at any time."""
        ...


def make_sweep_screen(stream: TextIO) -> SweepScreen:
    """The screen for this terminal or pipe."""
    return LiveSweep(stream) if interactive(stream) else PlainSweep(stream)


class PlainSweep:
    """Plain lines for a pipe or a file: no escape codes, a line of progress at most every ten seconds."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._now = stream, now
        self._clocks = Clocks(now)
        self._ended: set[tuple[int, int]] = set()
        self._total, self._metric = 0, ""
        self._said = 0.0

    def begin(self, result: SweepResult, path: Path) -> None:
        """Print the sweep's size and folder."""
        self._ended, self._metric = _ended(result), result.metric
        self._total, self._said = counts(result).total(), self._now()
        self._clocks.begin(result)
        self._say(tables.summary(result))
        self._say(f"sweep: {printable(path)}")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._say(f"note: {printable(text)}")

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._say(f"warning: {printable(text)}")

    def update(self, result: SweepResult, running: Running) -> None:
        """Print how far the sweep is, when the last such line is old enough."""
        self._total = counts(result).total()
        self._clocks.see(running)
        if self._now() - self._said >= PLAIN_INTERVAL:
            self._said = self._now()
            best = f"; best {text}" if (text := _best(result, "+-")) else ""
            self._say(f"{tables.states(result)}{best}; {_times(result, self._clocks)}")

    def ended(self, point: PointResult, trial: TrialResult) -> None:
        """Print the trial's line."""
        self._ended.add((point.number, trial.seed))
        count = f"[{len(self._ended)}/{max(self._total, len(self._ended))}]"
        if trial.status in (FAILED, DIVERGED):
            self._say(f"{count} {printable(tables.failure(point, trial))}")
            return
        value = "" if trial.value is None else f" {self._metric} {number(trial.value)}"
        seconds = "" if trial.seconds is None else f", {tables.took(trial.seconds)}"
        again = ", taken over from an equal run" if trial.reused else ""
        name = f"point {point.number} seed {trial.seed} {tables.values(point.point.values)}"
        self._say(f"{count} {name}: {trial.status}{value}{seconds}{again}")

    def closing(self, result: SweepResult, more: Sequence[str] = ()) -> None:
        """Print how the sweep ended."""
        for table in _closing(result, None, "+-", "#"):
            self._say("\n" + plain_table(table))
        for text in tables.failures(result):
            self._say(printable(text))
        if command := tables.best_command(result, more):
            self._say(f"\n{AGAIN}\n{printable(command)}")

    def stop(self) -> None:
        """Nothing is left to end: every line is already out."""

    def _say(self, text: str) -> None:
        print_on(self._stream, text)


class LiveSweep:
    """A terminal: one live table above which remarks scroll away, then the closing tables."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._console = rich_console(stream)
        self._now = now
        self._clocks = Clocks(now)
        self._live: Live | None = None
        self._drawn: float | None = None
        self._failures: deque[str] = deque(maxlen=FAILURES)
        utf = self._console.encoding.lower().startswith("utf")
        self._plus, self._full, self._empty = ("\u00b1", "\u2501", "\u2500") if utf else ("+-", "#", "-")

    def begin(self, result: SweepResult, path: Path) -> None:
        """Print the sweep's size and folder."""
        self._clocks.begin(result)
        self._failures.extend(tables.failures(result)[-FAILURES:])
        self._say(tables.summary(result), "bold")
        self._say(f"sweep {path}", "dim")

    def note(self, text: str) -> None:
        """Print a remark above the table."""
        self._say(text, "dim")

    def warn(self, text: str) -> None:
        """Print a warning above the table."""
        self._say(f"warning: {text}", "yellow")

    def update(self, result: SweepResult, running: Running) -> None:
        """Draw the table again when the last drawing is old enough."""
        from rich.live import Live

        self._clocks.see(running)
        if self._drawn is not None and self._now() - self._drawn < REDRAW:
            return
        self._drawn = self._now()
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
            self._live.start()
        self._live.update(self._table(result, running), refresh=True)

    def ended(self, point: PointResult, trial: TrialResult) -> None:
        """The next drawing shows it, and is due at once."""
        if trial.status in (FAILED, DIVERGED):
            self._failures.append(tables.failure(point, trial))
            self._drawn = None

    def closing(self, result: SweepResult, more: Sequence[str] = ()) -> None:
        """Print how the sweep ended."""
        self.stop()
        self._console.print()
        for table in _closing(result, self._console.width, self._plus, self._full):
            self._console.print(rich_table(table, self._console.width))
            self._console.print()
        for text in tables.failures(result):
            self._say(text, "red")
        if command := tables.best_command(result, more):
            self._say(AGAIN, "dim")
            self._say(command)

    def stop(self) -> None:
        """End the live table and give the cursor back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, result: SweepResult, running: Running) -> RenderableType:
        """As many lines as the terminal has room for: bar, states, best, running trials, last failures."""
        from rich.console import Group
        from rich.text import Text

        best = _best(result, self._plus)
        lines = [(self._bar(result), "cyan"), (f" {result.name}: {tables.states(result)}", "")]
        lines += [(f" best {best}", "bold")] if best else []
        room = max(self._console.height - 1 - len(lines), 1)
        failed = [(f" {text}", "red") for text in self._failures][-(room // 3) :] if room >= 3 else []
        lines += [(text, "") for text in self._running(result, running, room - len(failed))] + failed
        width = max(self._console.width - 1, 1)
        shown = [Text(printable(text), style=style, no_wrap=True, overflow="ellipsis") for text, style in lines]
        for text in shown:
            text.truncate(width, overflow="ellipsis" if self._plus == "\u00b1" else "crop")
        return Group(*shown[: max(self._console.height - 1, 1)])

    def _running(self, result: SweepResult, running: Running, room: int) -> Iterator[str]:
        by_number = {point.number: point for point in result.points}
        shown = sorted(running)[: room if len(running) <= room else max(room - 1, 0)]
        widest = max((len(f"{number} seed {seed}") for number, seed in shown), default=0)
        for key in shown:
            point = by_number.get(key[0])
            values = tables.values(point.point.values) if point else ""
            named = f"{key[0]} seed {key[1]}".ljust(widest)
            words = "  ".join(part for part in (running[key], values) if part)
            yield f"   point {named} {clock(self._clocks.age(key)):>8}  {words}"
        if len(running) > len(shown):
            yield f"   and {len(running) - len(shown)} more running"

    def _bar(self, result: SweepResult) -> str:
        found = counts(result)
        ended, total = sum(found[state] for state in TERMINAL), max(found.total(), 1)
        text = f"{ended:,}/{total:,} trials  {_times(result, self._clocks)}"
        width = min(BAR, self._console.width - len(text) - 5)
        if width < 5:
            return f" {text}"
        done = width * ended // total
        return f" {self._full * done}{self._empty * (width - done)}  {text}"

    def _say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(printable(text), style=style), soft_wrap=True)


def _closing(result: SweepResult, width: int | None, plus: str, full: str) -> Iterator[Table]:
    """The tables of the closing screen in their order."""
    if result.ranked():
        yield tables.ranking(result, width, plus)
    if result.importances:
        yield tables.importances(result, full)
    yield tables.facts(result)


def _best(result: SweepResult, plus: str) -> str:
    """The best point so far in one line, or nothing."""
    ranked = result.ranked()
    if not ranked:
        return ""
    point = ranked[0]
    return f"{result.metric} {tables.mean(point, plus)} (point {point.number}: {tables.values(point.point.values)})"


def _times(result: SweepResult, clocks: Clocks) -> str:
    left = clocks.left(result)
    return clock(result.seconds) + ("" if left is None else f", about {clock(left)} left")


def _ended(result: SweepResult) -> set[tuple[int, int]]:
    return {(p.number, t.seed) for p in result.points for t in p.trials if t.status in TERMINAL}

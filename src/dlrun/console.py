"""What a run says while it works: on a terminal with rich, in a pipe as plain lines.

Both say the same things in the same order. Nothing runs in the background: the bar is redrawn when the trainer calls
``progress``, so that it costs what it costs there and cannot tear a line that somebody else prints.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dlrun.cli import screens
from dlrun.cli.failures import print_on
from dlrun.cli.tables import Table, interactive, plain_table, rich_console, rich_table
from dlrun.cli.text import clock, number, printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from dlrun.run import Description
    from dlrun.tasks import Evaluation
    from dlrun.training.callbacks import Reporter

PLAIN_INTERVAL = 10.0  # seconds between two lines of progress in a pipe
BAR = 30  # columns of the bar where there is room


def make_reporter(*, to_stderr: bool = False) -> Reporter:
    """The reporter for this terminal or pipe; ``to_stderr`` keeps standard output free for JSON."""
    stream = sys.stderr if to_stderr else sys.stdout
    return Screen(stream) if interactive(stream) else Plain(stream)


class Pace:
    """How fast the steps go and how long the rest will take."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._recent: deque[tuple[float, int]] = deque(maxlen=20)
        self._first: tuple[float, float] | None = None
        self.things = "examples"

    def parts(self, step: int, total: int | None, share: float, values: Mapping[str, float]) -> list[str]:
        """Percent, steps, rate, time left, then the values; the most important first."""
        now = self._now()
        self._first = self._first or (now, share)
        self._recent.append((now, step))
        (then, before), (start, began) = self._recent[0], self._first
        rate = (step - before) / (now - then) if now > then else 0.0
        done, elapsed = share - began, now - start
        left = f"{clock((1 - share) * elapsed / done)} left" if done > 0 else "-:-- left"
        of = f"/{total:,}" if total else ""
        shown = [f"{name} {number(float(values[name]))}" for name in screens.headline(values)]
        speed = f"{1 / rate:.1f} s/step" if 0 < rate < 1 else f"{rate:,.0f} steps/s"
        return [f"{share:4.0%}", f"step {step:,}{of}", left, *shown, speed, *screens.stream(values, self.things)]


class Lines:
    """Evaluations as aligned lines; the headings come again when they change."""

    def __init__(self) -> None:
        self._headings: list[str] = []

    def add(self, cells: list[tuple[str, str]]) -> list[str]:
        """The line of these cells, after a line of headings where one is due."""
        headings = [heading for heading, _ in cells]
        line = "  ".join(value.rjust(max(len(heading), 8)) for heading, value in cells)
        if headings == self._headings:
            return [line]
        self._headings = headings
        return ["  ".join(heading.rjust(8) for heading in headings), line]


class Plain:
    """Plain lines for a pipe or a file: no escape codes, a line of progress at most every ten seconds."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._pace = Pace(now)
        self._lines = Lines()
        self._said: float | None = None
        self._train_loss: float | None = None

    def experiment(self, description: Description, path: Path) -> None:
        """Print the resolved experiment, the network and the run's path."""
        self._say(plain_table(screens.experiment(description)))
        self._say("\n" + plain_table(screens.network(description.layers, whole=False)) + "\n")
        self._pace.things = screens.things(description)
        for text in description.notes:
            self.note(text)
        self._say(f"run: {printable(path)}\n")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._say(f"note: {printable(text)}")

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._say(f"warning: {printable(text)}")

    def evaluation(self, evaluation: Evaluation, baseline: dict[str, float], total_steps: int | None) -> None:
        """Print one line of metrics beside the naive baseline's; those of the test part stand in the closing table."""
        if evaluation.split == "test":
            return
        for line in self._lines.add(screens.evaluation_cells(evaluation, baseline, self._train_loss)):
            self._say(line)

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """Print how far the run is, when the last such line is old enough."""
        self._train_loss = values.get("train/loss", self._train_loss)
        parts = self._pace.parts(step, total, share, values)
        now = self._now()
        self._said = now if self._said is None else self._said
        if now - self._said >= PLAIN_INTERVAL:
            self._said = now
            self._say("  ".join(part.strip() for part in parts))

    def closing(
        self, title: str, metrics: dict[str, float], baseline: dict[str, float], path: Path, facts: dict[str, str]
    ) -> None:
        """Print the closing table, the facts of the run and its path."""
        self._say("\n" + plain_table(screens.closing(title, metrics, baseline)) + "\n")
        self._say(plain_table(_facts(facts, path)))

    def stop(self) -> None:
        """Nothing is left to end: every line is already out."""

    def _say(self, text: str) -> None:
        print_on(self._stream, text)


class Screen:
    """A terminal: tables by rich, and one live line that is redrawn by ``progress`` alone."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._console = rich_console(stream)
        self._pace = Pace(now)
        self._lines = Lines()
        self._live: Live | None = None
        self._train_loss: float | None = None

    def experiment(self, description: Description, path: Path) -> None:
        """Print the resolved experiment, the network and the run's path."""
        self._table(screens.experiment(description))
        self._table(screens.network(description.layers, whole=False))
        self._pace.things = screens.things(description)
        for text in description.notes:
            self.note(text)
        self._say(f"run {path}", "dim")
        self._console.print()

    def note(self, text: str) -> None:
        """Print a remark."""
        self._say(text, "dim")

    def warn(self, text: str) -> None:
        """Print a warning, above the live line."""
        self._say(f"warning: {text}", "yellow")

    def evaluation(self, evaluation: Evaluation, baseline: dict[str, float], total_steps: int | None) -> None:
        """Print one line of metrics above the live line; those of the test part stand in the closing table."""
        if evaluation.split == "test":
            return
        *heading, line = self._lines.add(screens.evaluation_cells(evaluation, baseline, self._train_loss))
        for text in heading:
            self._say(text, "dim")
        self._say(line)

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """Redraw the live line: bar, percent, steps, time left, values, rate."""
        from rich.live import Live

        self._train_loss = values.get("train/loss", self._train_loss)
        line = self._bar(share, self._pace.parts(step, total, share, values))
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(line, refresh=True)

    def closing(
        self, title: str, metrics: dict[str, float], baseline: dict[str, float], path: Path, facts: dict[str, str]
    ) -> None:
        """Print the closing table, the facts of the run and its path."""
        self.stop()
        self._console.print()
        self._table(screens.closing(title, metrics, baseline))
        self._table(_facts(facts, path))

    def stop(self) -> None:
        """End the live line and give the cursor back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _bar(self, share: float, parts: list[str]) -> Text:
        """One line that fits the terminal: what does not fit is left out from the end, the bar takes what remains."""
        from rich.text import Text

        room = self._console.width - 1
        kept: list[str] = []
        for part in parts:
            if len("  ".join([*kept, part])) + 3 > room:
                break
            kept.append(part)
        text = "  ".join(kept)
        width = min(BAR, room - len(text) - 3)
        if width < 5:
            return Text(f" {text}"[:room], no_wrap=True)
        utf = self._console.encoding.lower().startswith("utf")
        full, empty = ("━", "─") if utf else ("#", "-")
        done = round(width * min(max(share, 0.0), 1.0))
        return Text.assemble(" ", (full * done, "cyan"), (empty * (width - done), "dim"), "  ", text, no_wrap=True)

    def _table(self, table: Table) -> None:
        self._console.print(rich_table(table, self._console.width))
        self._console.print()

    def _say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(printable(text), style=style), soft_wrap=True)


def _facts(facts: Mapping[str, str], path: Path) -> Table:
    return Table("", ("", ""), "ll", [*((name, str(text)) for name, text in facts.items()), ("run", str(path))])

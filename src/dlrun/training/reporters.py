"""Reporters for runs that nobody watches: one that says nothing, and one for a log file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from dlrun.tasks import Evaluation


class Silent:
    """A reporter that says nothing: the run around has its own."""

    def experiment(self, description: Any, path: Path) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def evaluation(self, evaluation: Evaluation, baseline: dict[str, float], total_steps: int | None) -> None:
        """Nothing."""

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """Nothing."""

    def closing(
        self, title: str, metrics: dict[str, float], baseline: dict[str, float], path: Path, facts: dict[str, str]
    ) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class Lines:
    """A reporter for a log file: one line for each thing worth keeping, none for progress."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def experiment(self, description: Any, path: Path) -> None:
        """What was chosen, one choice a line."""
        for key, choice, why in description.choices:
            self._say(f"{key}: {choice} ({why})" if why else f"{key}: {choice}")
        for text in description.notes:
            self.note(text)
        self._say(f"run: {path}")

    def note(self, text: str) -> None:
        """A remark."""
        self._say(f"note: {text}")

    def warn(self, text: str) -> None:
        """A warning."""
        self._say(f"warning: {text}")

    def evaluation(self, evaluation: Evaluation, baseline: dict[str, float], total_steps: int | None) -> None:
        """The metrics of one evaluation."""
        self._say(f"step {evaluation.step:,}: {_spoken(evaluation.split, evaluation.metrics)}")

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        """Nothing."""

    def closing(
        self, title: str, metrics: dict[str, float], baseline: dict[str, float], path: Path, facts: dict[str, str]
    ) -> None:
        """The metrics of the whole run, and its facts."""
        self._say(f"{title}: {_spoken('', metrics)}")
        for name, value in facts.items():
            self._say(f"{name}: {value}")

    def stop(self) -> None:
        """Nothing."""

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _spoken(part: str, metrics: dict[str, float]) -> str:
    prefix = f"{part}/" if part else ""
    return ", ".join(f"{prefix}{name} {value:.6g}" for name, value in metrics.items())

"""A reporter that keeps what it is told, and short ways to train in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.config import compose
from dlrun.run import Outcome, train

# A run of well under a second: no TensorBoard, few steps.
SHORT = ["tracking=minimal", "trainer.steps=40", "trainer.evaluate_steps=20", "model.hidden=[16]"]


class Quiet:
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.evaluations: list[Any] = []
        self.closings: list[dict[str, Any]] = []

    def experiment(self, description: Any, path: Path) -> None:
        self.description, self.path = description, path

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def evaluation(self, evaluation: Any, baseline: dict[str, float], total_steps: int | None) -> None:
        self.evaluations.append(evaluation)

    def progress(self, step: int, total: int | None, share: float, values: dict[str, float]) -> None:
        assert 0.0 <= share <= 1.0

    def closing(self, title: str, metrics: Any, baseline: Any, path: Path, facts: Any) -> None:
        self.closings.append({"title": title, "metrics": metrics, "baseline": baseline, "facts": facts})

    def stop(self) -> None:
        pass


def train_short(root: Path, *overrides: str, reporter: Quiet | None = None) -> Outcome:
    """Train on the digits for a moment."""
    config = compose([*SHORT, *overrides])
    return train(config, root=root, command=["dlrun", "train"], reporter=reporter or Quiet())

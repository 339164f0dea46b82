"""How long a run is and how often things happen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Lengths and intervals in optimizer steps (``budget`` in seconds; None is no limit)."""

    total_steps: int | None
    budget: float | None
    evaluate_every: int
    log_every: int
    early_stop: int | None = None

"""One step after another, and how many there are until something is due."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlrun.training.callbacks import Callback
from dlrun.training.taking import one_step
from tiny import make_trainer, plan, weights


class Every(Callback):
    """Must be called every so many steps."""

    def __init__(self, every: int | None) -> None:
        self.every = every


def test_one_step_sets_the_rate_and_moves_the_weights() -> None:
    trainer = make_trainer()
    trainer.step = 2
    before = weights(trainer)
    (logs,) = one_step(trainer, trainer._batches())
    assert trainer.updater.rate == pytest.approx(0.1 * 0.25)
    assert set(logs) == {"loss"}
    assert not any(map(torch.equal, before, weights(trainer)))


@pytest.mark.parametrize(
    ("step", "changes", "every", "left"),
    [
        (0, {"log": 5, "every": 50, "total": 100}, None, 5),
        (0, {"log": 50, "every": 7, "total": 100}, None, 7),
        (5, {"log": 50, "every": 7, "total": 100}, None, 2),
        (7, {"log": 50, "every": 7, "total": 100}, None, 7),
        (95, {"log": 50, "every": 70, "total": 100}, None, 5),
        (95, {"log": 50, "every": 70, "total": None, "budget": 9.0}, None, 45),
        (95, {"log": 50, "every": 70, "total": None, "budget": 9.0}, 10, 5),
        (100, {"log": 50, "every": 70, "total": 100}, None, 1),
    ],
)
def test_steps_until_something_is_due(step: int, changes: dict[str, Any], every: int | None, left: int) -> None:
    trainer = make_trainer(Every(None), Every(every), plan=plan(**changes))
    trainer.step = step
    assert trainer.steps_left() == left


def test_a_row_half_full_is_due_sooner() -> None:
    trainer = make_trainer(plan=plan(log=5, every=50, total=100))
    trainer.begin()
    trainer.advance(trainer.take(trainer, trainer._batches()))
    trainer.window.add([{}])
    assert trainer.steps_left() == 3


def test_an_engine_may_take_several_steps_at_once() -> None:
    seen: list[int] = []

    def two(trainer: Any, batches: Any) -> list[Any]:
        rows = [trainer.take_step(next(batches)) for _ in range(min(2, trainer.steps_left()))]
        seen.append(len(rows))
        return rows

    trainer = make_trainer(take=two, plan=plan(total=7, every=3, log=2))
    assert trainer.fit() == "finished"
    assert sum(seen) == 7
    assert 2 in seen
    assert trainer.step == 7

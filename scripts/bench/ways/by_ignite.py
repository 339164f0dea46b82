"""Ignite: ``create_supervised_trainer``, or an ``Engine`` of the step where there is more than one loss.

No handlers but the clock's: Ignite has none by default. The time is from the start of the first epoch to the end of the
last.
"""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events, create_supervised_trainer
from work import Clock, Trained, Work


def train(work: Work, clock: Clock) -> Trained:
    model, loader = work.network(), work.loader()
    if work.kind.supervised:
        loss = work.kind.loss  # type: ignore[attr-defined]
        trainer = create_supervised_trainer(model, work.optimizer(model.parameters()), loss, device=work.device)
    else:
        model.train()
        step = work.step(model)

        def update(engine: Engine, batch: Any) -> float:
            x, y = (part.to(work.device) for part in batch)
            return step(x, y).item()

        trainer = Engine(update)
    trainer.add_event_handler(Events.EPOCH_STARTED(once=1), clock.start)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=work.epochs), clock.stop)
    trainer.run(loader, max_epochs=work.epochs)
    return Trained(model, trainer.state.iteration)

"""The sheets of a Boltzmann machine: there for images, the same in every call, and they leave no trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from dlrun.data.facts import Facts
from dlrun.models.rbm import RBM
from dlrun.tasks.density import Density
from dlrun.tracking.gallery import Gallery
from dlrun.tracking.shown.density import drawings


def look(kind: str = "image") -> Any:
    facts = Facts("squares", kind, (1, 6, 6), "classification", classes=("a", "b"))
    inputs = (torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    model, task = RBM((1, 6, 6), 8), Density(None, facts)
    task.fit(torch.zeros(10), lambda: [(inputs, torch.zeros(10))])
    found = SimpleNamespace(model=model, task=task, facts=facts, device=torch.device("cpu"), inputs=inputs)
    found.filters = lambda: Gallery.filters(found)  # type: ignore[arg-type]
    return found


def test_images_give_three_sheets_and_tables_none() -> None:
    sheets = {name: draw() for name, draw in drawings(look()).items()}
    assert set(sheets) == {"pictures/filters", "pictures/fantasies", "pictures/reconstructions"}
    for image in sheets.values():
        assert image is not None
        assert not isinstance(image, str)
        assert len(set(image.convert("L").tobytes())) > 5  # not blank
    assert drawings(look("table")) == {}


def test_fantasies_are_drawn_from_the_same_numbers_and_leave_the_random_state_alone() -> None:
    seen = look()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = drawings(seen)["pictures/fantasies"]()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = drawings(seen)["pictures/fantasies"]()
    assert first.tobytes() == second.tobytes()  # type: ignore[union-attr]


def test_reconstructions_follow_the_machine() -> None:
    seen = look()
    before = drawings(seen)["pictures/reconstructions"]()
    with torch.no_grad():
        seen.model.visible_bias.fill_(4.0)
    after = drawings(seen)["pictures/reconstructions"]()
    assert before.tobytes() != after.tobytes()  # type: ignore[union-attr]

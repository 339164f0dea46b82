"""What a language model shows: how it goes on with a text of the validation part, more sensibly from time to time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlrun.tracking.gallery import Draw, Gallery

LENGTH = 200
TEMPERATURE = 0.8


def drawings(look: Gallery) -> dict[str, Draw]:
    """One text: the start of the validation part and how the network goes on."""
    return {"pictures/continuation": lambda: continuation(look)}


def continuation(look: Gallery) -> str:
    """The first window of the sample, and 200 tokens drawn with a temperature of 0.8 and the same chances each time.

    Indented, so that TensorBoard keeps the lines as they are.
    """
    prompt = look.inputs[0].long()
    with observing(look.model, look.device):
        drawn = look.task.continue_text(
            look.model,
            prompt.to(look.device),
            LENGTH,
            temperature=TEMPERATURE,
            generator=torch.Generator().manual_seed(0),
        )
    return "\n\n".join(
        (
            "Given:",
            _indented(look.facts.features, prompt.tolist()),
            f"Drawn, at temperature {TEMPERATURE}:",
            _indented(look.facts.features, drawn.tolist()),
        )
    )


def _indented(texts: Sequence[str], tokens: Sequence[int]) -> str:
    lines = "".join(texts[token] for token in tokens).split("\n")
    return "\n".join(f"    {line}" for line in lines)
